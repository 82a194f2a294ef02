// The messages of protocol version 2 that a client receives, and their parts. Times are milliseconds.
// Fields that a message leaves out have their default after `protocol.decode`.

export interface Pose {
  position: [number, number, number];
  orientation: [number, number, number, number];
  fov_y: number;
}

export interface ControllerState {
  sequence: number;
  time: number;
  axes: [number, number, number, number];
  buttons: number;
  keys: string[];
  pointer: [number, number];
  camera: Pose | null;
}

export interface ControlSpec {
  name: string;
  kind: "axis" | "button" | "look";
  range: [number, number];
  low_keys: string[];
  high_keys: string[];
  default_axis: number | null;
  inverted: boolean;
}

export interface WorldSpec {
  name: string;
  title: string;
  width: number;
  height: number;
  fps: number;
  frames_per_latent: number;
  themes: string[];
  action_schema: ControlSpec[];
  context_latents: number;
  kind: "procedural" | "autoregressive";
  max_prompt_frames: number;
  conditionings: string[];
  depth: boolean;
}

export interface Seat {
  state: "seated" | "queued" | "watching";
  position: number | null;
  expected_wait_s: number | null;
}

export interface Seats {
  used: number;
  total: number;
}

export interface IceServer {
  urls: string[];
  username: string | null;
  credential: string | null;
}

export interface FrameHeader {
  frame: number;
  input_sequence: number;
  input_time: number;
  t_input: number;
  t_controls: number;
  t_tokens: number;
  t_frame: number;
  camera: Pose;
  t_gateway: number;
  t_encoded: number;
  t_sent: number;
  width: number;
  height: number;
  rtp: number | null;
  dropped: number;
  batch: number;
}

export interface Welcome {
  type: "welcome";
  server: string;
  session: string;
  resume: string;
  role: "player" | "spectator" | "engine";
  world: WorldSpec;
  seat: Seat;
  seats: Seats;
  transport: "webrtc" | "websocket";
  codec: "h264" | "vp8" | "jpeg";
  started: boolean;
  ice_servers: IceServer[];
  kept_s: number | null;
  version: number;
}

export interface Status {
  type: "status";
  state: "loading" | "ready" | "queued" | "playing" | "reconnecting";
  detail: string;
  progress: number | null;
  position: number | null;
  expected_wait_s: number | null;
}

export interface Frame {
  type: "frame";
  header: FrameHeader;
  image: Uint8Array | null;
  codec: "h264" | "vp8" | "jpeg" | null;
  depth: Uint8Array | null;
  depth_scale: number | null;
}

export interface Event {
  type: "event";
  name:
    | "world_lost"
    | "world_restored"
    | "world_reset"
    | "session_resumed"
    | "seat_warning"
    | "control_requested";
  detail: string;
  seconds: number | null;
  frames: number | null;
}

export interface Error {
  type: "error";
  code: string;
  message: string;
  expected: string;
  got: string;
  remedy: string;
  path: string;
  fatal: boolean;
}

export interface Pong {
  type: "pong";
  time: number;
  server_time: number;
}

export interface Answer {
  type: "answer";
  sdp: string;
}

export interface Stats {
  type: "stats";
  values: Record<string, unknown>;
}

export type ServerMessage = Welcome | Status | Frame | Event | Error | Pong | Answer | Stats;
