import type {
  ControllerState,
  Error as ServerError,
  Frame,
  FrameHeader,
  IceServer,
  Pose,
  Seats,
  ServerMessage,
  Welcome,
  WorldSpec,
} from "./messages.js";

export type * from "./messages.js";

export type Video = "auto" | "webrtc" | "h264" | "jpeg";
export type Role = "player" | "spectator" | "engine";
export type SessionState =
  "idle" | "connecting" | "queued" | "loading" | "playing" | "reconnecting" | "full" | "error";

/** What a player wants: `promptFrames` are image files, empty for the theme's own start. */
export interface Wanted {
  theme: string | null;
  seed: number | null;
  promptFrames?: Uint8Array[] | null;
  resume?: string | null;
  role?: Role;
}

export type Problem = Omit<ServerError, "type" | "fatal">;

/** The session's state as plain data. */
export interface SessionView {
  state: SessionState;
  detail: string;
  progress: number | null;
  seconds: number;
  lastFrame: number | null;
  position: number | null;
  expectedWait: number | null;
  role: Role;
  controlRequested: boolean;
  kept: number | null;
  retryIn: number | null;
  attempt: number;
  stalledFor: number;
  error: Problem | null;
  theme: string | null;
  seed: number | null;
  promptFrames: number;
  video: "webrtc" | "h264" | "jpeg";
  fallback: string | null;
  session: string | null;
  server: string | null;
  seats: Seats | null;
  world: WorldSpec | null;
}

export interface ClientHandlers {
  changed?(): void;
  frame?(message: Frame & { image: Uint8Array }, received: number): void;
  /** The header of a frame arrived, with an image or without. */
  header?(header: FrameHeader): void;
  /** A frame of H.264 was decoded; close it when it is shown. */
  decoded?(frame: VideoFrame, header: FrameHeader, received: number): void;
  track?(stream: MediaStream): void;
  /** WebRTC or H.264 did not get through; the session goes on with the next way. */
  videoFailed?(video: "webrtc" | "h264"): void;
  welcomed?(welcome: Welcome): void;
  resumable?(token: string | null): void;
  notice?(text: string, tone?: string): void;
  startRejected?(): void;
}

export interface ClientOptions {
  video?: Video;
  order?: Exclude<Video, "auto">[];
  token?: string | null;
  role?: Role;
  wait?: boolean;
  depth?: boolean;
  client?: string;
  counters?: Counters;
  now?: () => number;
  refreshPeriod?: (now: number) => number | null;
}

/** A view of a scene: pixels with the upper row first, see docs/protocol.md#observation. */
export interface SceneView {
  camera: Pose;
  width: number;
  height: number;
  /** 3 bytes for each pixel. */
  rgb: Uint8Array;
  /** 2 bytes for each pixel, little-endian, of `depthScale` metres; 0 where the world draws. */
  depth: Uint8Array;
  depthScale: number;
  /** The world forgets first what it drew before. */
  fresh?: boolean;
}

/** A client of the gateway: session, transport, input and latency in one. */
export class Client {
  constructor(url: string, handlers: ClientHandlers, options?: ClientOptions);
  readonly session: Session;
  readonly controller: Controller;
  readonly clock: ClockOffset;
  readonly meter: LatencyMeter;
  readonly matcher: FrameMatcher;
  readonly rate: Rate;
  readonly transport: Transport;
  readonly counts: {
    received: number;
    shown: number;
    dropped: number;
    measured: number;
    sent: number;
    firstShown: number | null;
  };
  readonly state: SessionState;
  view(): SessionView;
  play(wanted: Wanted): void;
  restart(theme: string | null, seed: number | null, promptFrames?: Uint8Array[] | null): void;
  retry(token?: string | null): void;
  leave(): void;
  observe(view: SceneView): void;
  requestControl(): void;
  handOver(): void;
  pageHidden(): void;
  inputChanged(): void;
  tick(visible?: boolean): void;
  imageShown(header: FrameHeader, received: number, shown: number): void;
  videoShown(rtp: number | undefined, received: number, shown: number): void;
}

export const TICK_MS: number;
export const SLOW_TICK_MS: number;

export interface Counters {
  sequence?: number;
  pointer?: [number, number];
}

/** A player's devices as a sequence of controller states. */
export class Gamepads {
  constructor(pads?: () => Iterable<Gamepad | null>);
  poll(): { pad: Gamepad | null; axes: number[]; buttons: number };
}

export class Controller {
  constructor(options?: Counters & { holdMs?: number });
  camera: Pose | null;
  holdMs: number;
  press(code: string, now: number): boolean;
  release(code: string, now: number): boolean;
  movePointer(dx: number, dy: number): boolean;
  setPad(name: string, axes: number[], buttons: number): boolean;
  releaseAll(): boolean;
  sample(now: number): ControllerState;
  readonly history: ControllerState[];
  readonly counters: Required<Counters>;
}

/** Decide when the next controller state is due. */
export class SendClock {
  changed(): void;
  due(now: number): boolean;
}

export const SAMPLE_MS: number;
export const MIN_GAP_MS: number;

export type Command = { do: string } & Record<string, unknown>;

/** One session as a state machine without I/O. */
export class Session {
  constructor(options?: {
    client?: string;
    role?: Role;
    world?: string | null;
    video?: Video;
    order?: Exclude<Video, "auto">[];
    token?: string | null;
    wait?: boolean;
    depth?: boolean;
    silence?: number;
  });
  readonly state: SessionState;
  readonly role: Role;
  readonly controlRequested: boolean;
  readonly greeted: boolean;
  readonly theme: string | null;
  readonly seed: number | null;
  token: string | null;
  commands(): Command[];
  play(wanted: Wanted, now: number): void;
  restart(
    theme: string | null,
    seed: number | null,
    now: number,
    promptFrames?: Uint8Array[] | null,
  ): void;
  retry(now: number): void;
  leave(now: number): void;
  requestControl(): void;
  handOver(): void;
  pageHidden(): void;
  opened(now: number): void;
  closed(reason: string, now: number): void;
  received(message: ServerMessage, now: number): void;
  invalid(error: protocol.ProtocolError, now: number): void;
  videoFailed(reason: string, now: number): void;
  frameShown(now: number): void;
  tick(now: number, visible?: boolean, sending?: boolean): void;
  view(now: number): SessionView;
}

export function backoff(attempt: number): number;
export function themeKey(id: string): string;
export function sameTheme(a: string, b: string): boolean;

export interface TransportHandlers {
  opened(): void;
  closed(reason: string): void;
  message(message: ServerMessage): void;
  invalid(error: protocol.ProtocolError): void;
  track(stream: MediaStream): void;
  videoFailed(reason: string): void;
}

/** The connection to the gateway. */
export class Transport {
  constructor(url: string, handlers: TransportHandlers);
  readonly sending: boolean;
  readonly inputPath: "datachannel" | "websocket";
  readonly codec: string | null;
  readonly inputsSkipped: number;
  connect(): void;
  disconnect(): void;
  send(message: object): void;
  sendInput(message: object): boolean;
  sendReport(message: object): void;
  negotiate(iceServers?: IceServer[]): void;
  answer(sdp: string): void;
}

export function sessionUrl(base: string | URL): string;

/** One WebRTC connection: a video track and two data channels. */
export class PeerConnection {
  constructor(handlers: {
    offer(sdp: string): void;
    message(data: ArrayBuffer): void;
    track(stream: MediaStream): void;
    failed(reason: string): void;
  });
  readonly inputOpen: boolean;
  readonly controlOpen: boolean;
  readonly codec: string | null;
  open(iceServers?: IceServer[]): Promise<void>;
  answer(sdp: string): Promise<void>;
  close(): void;
}

/** Whether this browser has WebCodecs, which needs a secure context. */
export function decodesH264(): boolean;

export function describeAccessUnit(data: Uint8Array): { key: boolean; codec: string | null };

/** Counts the frames that the gateway may send. */
export class CreditWindow {
  grant(done: number, roundTrip: number | null, framePeriod: number): number;
}

/** Decodes H.264 that arrives in messages. */
export class H264Decoder {
  constructor(
    handlers: {
      decoded(frame: VideoFrame, header: FrameHeader, received: number): void;
      done(): void;
      failed(reason: string): void;
    },
    create?: (init: VideoDecoderInit) => VideoDecoder,
  );
  push(header: FrameHeader, data: Uint8Array, received: number): void;
  close(): void;
}

export interface VideoKnowledge {
  failed?: number;
  measured?: number;
  ms?: number;
}

/** Which way video takes: by what failed and what was measured. Times in ms since 1970. */
export class VideoChoice {
  constructor(
    stored: Record<string, VideoKnowledge> | null,
    saved?: (known: Record<string, VideoKnowledge>) => void,
    supported?: ("webrtc" | "h264")[],
  );
  order(now: number): ("webrtc" | "h264" | "jpeg")[];
  failed(path: string, now: number): void;
  measured(path: string, ms: number, now: number): void;
}

export const RETRY_MS: number;
export const VALID_MS: number;

export const SPANS: readonly string[];
export const SPAN_TEXT: Readonly<Record<string, string>>;

export interface Summary {
  p50: number | null;
  p95: number | null;
  p99: number | null;
  mean: number | null;
  max: number | null;
  count: number;
}

export function percentile(sorted: ArrayLike<number>, p: number): number | null;
export function summarize(values: Iterable<number>): Summary;
export function spansOf(
  header: FrameHeader,
  sampled: number,
  received: number,
  shown: number,
  offset: number,
): Record<string, number>;

/** Estimate client time minus server time from pings. */
export class ClockOffset {
  constructor(window?: number);
  pong(sent: number, received: number, serverTime: number): void;
  readonly offset: number | null;
  readonly rtt: number | null;
  readonly minRtt: number | null;
  reset(): void;
}

export interface LatencySample {
  sequence: number;
  sampled: number;
  frame: number;
  total: number;
  spans: Record<string, number>;
}

/** Measure input-to-photon latency. */
export class LatencyMeter {
  readonly samples: LatencySample[];
  sent(sequence: number, time: number): void;
  shown(
    header: FrameHeader,
    received: number,
    shown: number,
    offset: number | null,
  ): LatencySample[];
  forget(): void;
  rolling(): { total: Summary; spans: Record<string, Summary> };
  csv(): string;
}

/** Match frame headers with shown frames by RTP timestamp. */
export class FrameMatcher {
  constructor(limit?: number);
  readonly skipped: number;
  readonly approximate: boolean;
  header(header: FrameHeader): FrameMatch | null;
  frame(rtp: number | undefined, received: number, shown: number): FrameMatch | null;
  reset(): void;
}

export interface FrameMatch {
  header: FrameHeader;
  received: number;
  shown: number;
}

/** Count events per second. */
export class Rate {
  constructor(span?: number);
  add(now: number): void;
  perSecond(now: number): number;
}

export namespace protocol {
  const VERSION: number;
  const STATES_PER_INPUT: number;
  const MAX_KEYS: number;
  const MAX_PROMPT_FRAMES: number;
  const MAX_PROMPT_BYTES: number;

  class ProtocolError extends globalThis.Error {
    constructor(path: string, expected: string, got: string, code?: string);
    readonly path: string;
    readonly expected: string;
    readonly got: string;
    readonly code: string;
  }

  function hello(fields?: {
    client?: string;
    role?: Role;
    transports?: string[];
    codecs?: string[];
    token?: string | null;
    resume?: string | null;
    session?: string | null;
    world?: string | null;
    maxFrame?: [number, number] | null;
    depth?: boolean;
    wait?: boolean;
  }): object;
  function promptFrames(files: Uint8Array[]): object[];
  function start(fields?: {
    theme?: string | null;
    seed?: number | null;
    prompt?: string | null;
    promptFrames?: number | null;
  }): object;
  function input(states: ControllerState[]): object;
  function observe(view: SceneView): object;
  function ping(time: number): object;
  function offer(sdp: string): object;
  function frameShown(fields: {
    frame: number;
    received: number;
    shown: number;
    offset?: number | null;
    refresh?: number | null;
  }): object;
  function credit(frames: number): object;
  function statsRequest(): object;
  function requestControl(): object;
  function handOver(): object;
  function bye(fields?: { keep?: boolean }): object;
  function encode(message: object): Uint8Array;
  function decode(data: Uint8Array): ServerMessage;
}

export namespace msgpack {
  class MsgpackError extends globalThis.Error {
    readonly expected: string;
    readonly got: string;
  }
  class Float {
    constructor(value: number);
    readonly value: number;
  }
  function float(value: number): Float;
  function encode(value: unknown): Uint8Array;
  function decode(bytes: Uint8Array): unknown;
}
