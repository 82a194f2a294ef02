using System;
using System.Collections.Generic;

namespace WorldBridge
{
    /// <summary>What a session is doing.</summary>
    public enum SessionState
    {
        /// <summary>Nothing.</summary>
        Idle,

        /// <summary>Contacting the server.</summary>
        Connecting,

        /// <summary>Waiting for a seat.</summary>
        Queued,

        /// <summary>Waiting for the world.</summary>
        Loading,

        /// <summary>Showing frames.</summary>
        Playing,

        /// <summary>The connection or the worker was lost and is coming back.</summary>
        Reconnecting,

        /// <summary>All seats are taken; asking again.</summary>
        Full,

        /// <summary>Ended: see the session's error.</summary>
        Error,
    }

    /// <summary>What the caller of a <see cref="Session"/> has to do.</summary>
    public enum SessionCommand
    {
        /// <summary>Open a connection.</summary>
        Connect,

        /// <summary>Close the connection.</summary>
        Disconnect,

        /// <summary>Send <see cref="Session.Hello"/>.</summary>
        SendHello,

        /// <summary>Send <see cref="Session.PromptFrames"/>.</summary>
        SendPromptFrames,

        /// <summary>Send <c>start</c>.</summary>
        SendStart,

        /// <summary>Send <c>ping</c>.</summary>
        SendPing,

        /// <summary>Send <c>bye</c>.</summary>
        SendBye,
    }

    /// <summary>
    /// One session as a state machine without I/O. Its methods report what happened and when (client
    /// ms); <see cref="TryCommand"/> returns what the caller has to do.
    /// </summary>
    public sealed class Session
    {
        private const double FirstPause = 250;
        private const double LongestPause = 4000;
        private const double SilenceMs = 4000;
        private const double OpenMs = 5000;
        private const double SilentMs = 3000; // without a ping for this long, the session may expire
        private const double PingMs = 500;
        private const int FastPings = 6; // to relate the clocks before the first frame
        private const double FastPingMs = 80;
        private const double FirstContactMs = 12000;
        private const double GiveUpMs = 60000;
        private const double FullRetryMs = 5000;
        private const double StaleMs = 250; // a frame this soon may belong to the world before
        private const double UploadMs = 60000;

        private enum Wire
        {
            Closed,
            Opening,
            Open,
            Greeted,
        }

        private readonly Queue<SessionCommand> commands = new Queue<SessionCommand>();
        private Wire wire;
        private double wireSince;
        private double retryAt = double.NaN;
        private double lastHeard;
        private double lastTick = double.NaN;
        private int pings;
        private double nextPing;
        private double pinged;
        private bool running;
        private bool startSent;
        private bool restartDue;
        private double uploadSince = double.NegativeInfinity;
        private double stale = double.NegativeInfinity;
        private string themeBefore;
        private long seedBefore;
        private byte[][] framesBefore;
        private bool hasBefore;

        /// <summary>Create an idle session that greets with <paramref name="hello"/>.</summary>
        public Session(Hello hello) => Hello = hello;

        /// <summary>Get the greeting; its resume token is kept up to date.</summary>
        public Hello Hello { get; }

        /// <summary>Get the state.</summary>
        public SessionState State { get; private set; }

        /// <summary>Get the client time at which the state was entered, in ms.</summary>
        public double Since { get; private set; }

        /// <summary>Get what people should know about the state.</summary>
        public string Detail { get; private set; } = "";

        /// <summary>Get how much is loaded, 0 to 1; NaN: unknown.</summary>
        public double Progress { get; private set; } = double.NaN;

        /// <summary>Get the place in the queue; -1: none.</summary>
        public long Position { get; private set; } = -1;

        /// <summary>Get how many attempts to connect failed in a row.</summary>
        public int Attempt { get; private set; }

        /// <summary>Get the error that ended the session, or the last one that did not.</summary>
        public ProtocolError Error { get; private set; }

        /// <summary>Get the last <c>welcome</c>; null before it.</summary>
        public Welcome Welcome { get; private set; }

        /// <summary>Get the wanted theme; null: any.</summary>
        public string Theme { get; private set; }

        /// <summary>Get the wanted seed; -1: any.</summary>
        public long Seed { get; private set; } = -1;

        /// <summary>Get the image files to start from; null: as before, empty: from the theme.</summary>
        public byte[][] PromptFrames { get; private set; }

        /// <summary>Get whether controller states may be sent.</summary>
        public bool AcceptsInput => wire == Wire.Greeted && Hello.Role != "spectator" && running;

        /// <summary>Get whether the server admitted this connection.</summary>
        public bool Greeted => wire == Wire.Greeted;

        /// <summary>Return the next thing to do, or false.</summary>
        public bool TryCommand(out SessionCommand command)
        {
            if (commands.Count == 0)
            {
                command = default;
                return false;
            }
            command = commands.Dequeue();
            return true;
        }

        /// <summary>Connect and start a world.</summary>
        public void Play(string theme, long seed, byte[][] promptFrames, double now)
        {
            if (wire != Wire.Closed) HangUp();
            Theme = theme;
            Seed = seed;
            PromptFrames = promptFrames;
            hasBefore = false;
            running = false;
            restartDue = false;
            Error = null;
            Attempt = 0;
            Enter(SessionState.Connecting, now, "Contacting the server");
            Since = now;
            Connect(now);
        }

        /// <summary>Restart the world. Null prompt frames keep the present ones.</summary>
        public void Restart(string theme, long seed, byte[][] promptFrames, double now)
        {
            themeBefore = Theme;
            seedBefore = Seed;
            framesBefore = PromptFrames;
            Theme = theme;
            Seed = seed;
            PromptFrames = promptFrames ?? PromptFrames;
            if (wire != Wire.Greeted)
            {
                restartDue = running;
                return;
            }
            if (State == SessionState.Queued) return;
            hasBefore = true;
            Start(now, promptFrames != null);
        }

        /// <summary>Leave for good.</summary>
        public void Leave(double now)
        {
            if (wire == Wire.Greeted) commands.Enqueue(SessionCommand.SendBye);
            HangUp();
            Hello.Resume = null;
            Welcome = null;
            Enter(SessionState.Idle, now, "");
        }

        /// <summary>Report that the connection is open.</summary>
        public void Opened(double now)
        {
            if (wire != Wire.Opening) return;
            wire = Wire.Open;
            wireSince = now;
            lastHeard = now;
            pings = 0;
            nextPing = now;
            pinged = now;
            startSent = false;
            commands.Enqueue(SessionCommand.SendHello);
        }

        /// <summary>Report that the connection failed or was closed by the other side.</summary>
        public void Closed(string reason, double now)
        {
            if (wire == Wire.Closed) return;
            bool greeted = wire == Wire.Greeted;
            wire = Wire.Closed;
            if (
                State == SessionState.Error
                || State == SessionState.Idle
                || State == SessionState.Full
            )
                return;
            if (greeted) Attempt = 0;
            bool first = State == SessionState.Connecting;
            Enter(first ? SessionState.Connecting : SessionState.Reconnecting, now, reason);
            if (now - Since > (first ? FirstContactMs : GiveUpMs))
            {
                GiveUp(first, reason, now);
                return;
            }
            retryAt = now + Math.Min(LongestPause, FirstPause * Math.Pow(2, Attempt));
            Attempt++;
        }

        /// <summary>Report a message that could not be decoded. The session ends.</summary>
        public void Invalid(ProtocolError error, double now)
        {
            bool version = error.Path == "welcome" && error.Expected.StartsWith("version");
            Fail(version ? OfAnotherVersion(error) : error, now);
        }

        private static ProtocolError OfAnotherVersion(ProtocolError error) =>
            new ProtocolError(
                "version_mismatch",
                "Client and server speak different versions of the protocol",
                error.Expected,
                error.Got,
                "Update the older of the two.",
                error.Path
            );

        /// <summary>Report that some bytes of a message arrived: the server is not silent.</summary>
        public void BytesArrived(double now) => lastHeard = now;

        /// <summary>Report a <c>welcome</c>.</summary>
        public void Received(Welcome welcome, double now)
        {
            if (!Hear(now)) return;
            if (Array.IndexOf(Hello.Codecs, welcome.Codec) < 0)
            {
                Fail(Unsupported(welcome), now);
                return;
            }
            wire = Wire.Greeted;
            Welcome = welcome;
            Attempt = 0;
            Hello.Resume = welcome.Resume.Length > 0 ? welcome.Resume : null;
            running = welcome.Started;
            Await(now, "Opening the world");
            if (welcome.SeatState == "queued") EnterQueue(welcome.SeatPosition, "", now);
            else if (restartDue || !running) Begin(now);
        }

        /// <summary>Report a <c>status</c>.</summary>
        public void Received(Status status, double now)
        {
            if (!Hear(now)) return;
            switch (status.State)
            {
                case "queued":
                    stale = now + StaleMs;
                    EnterQueue(status.Position, status.Detail, now);
                    return;
                case "ready":
                    if (wire == Wire.Greeted && !running && !startSent) Begin(now);
                    return;
                case "loading":
                    stale = double.IsPositiveInfinity(stale) ? stale : now + StaleMs;
                    Enter(SessionState.Loading, now, Or(status.Detail, "Loading the model"));
                    Progress = status.Progress;
                    return;
                case "reconnecting":
                    stale = now + StaleMs;
                    WorldLost(status.Detail, now);
                    return;
                default:
                    running = true;
                    stale = double.IsPositiveInfinity(stale) ? now + StaleMs : now;
                    if (State != SessionState.Loading) return;
                    Detail = "Waiting for the first frame";
                    Progress = 1;
                    return;
            }
        }

        /// <summary>Report an <c>event</c>.</summary>
        public void ReceivedEvent(string name, string detail, double now)
        {
            if (!Hear(now) || name != "world_lost") return;
            stale = now + StaleMs;
            WorldLost(detail, now);
        }

        /// <summary>Report an <c>error</c> of the server.</summary>
        public void Received(ProtocolError error, double now)
        {
            if (!Hear(now)) return;
            switch (error.Code)
            {
                case "no_free_seat":
                    Error = error;
                    HangUp();
                    Enter(SessionState.Full, now, error.Message);
                    retryAt = now + FullRetryMs;
                    return;
                // The process was paused, and the server keeps the seat for a while. Without a pause
                // another client took the session over: the two must not fight over it.
                case "session_expired" when wire == Wire.Greeted && now - pinged > SilentMs:
                    HangUp();
                    Enter(SessionState.Reconnecting, now, "The client was paused");
                    Connect(now);
                    return;
                case "session_expired" when wire == Wire.Open && Hello.Resume != null:
                    HangUp();
                    Hello.Resume = null;
                    Welcome = null;
                    Connect(now);
                    return;
                case "client_too_slow" when error.Fatal && wire == Wire.Greeted:
                case "not_greeted" when error.Fatal && wire == Wire.Greeted:
                    HangUp();
                    Enter(SessionState.Reconnecting, now, error.Message);
                    Connect(now);
                    return;
            }
            if (error.Fatal || wire == Wire.Open)
            {
                Fail(error, now);
                return;
            }
            Error = error;
            if (startSent && RejectsStart(error.Code)) StartRejected(error, now);
        }

        /// <summary>Report any other message.</summary>
        public void ReceivedOther(double now) => Hear(now);

        /// <summary>Report that a frame is on the screen.</summary>
        public void FrameShown(double now)
        {
            bool waits = State == SessionState.Loading || State == SessionState.Reconnecting;
            if (wire == Wire.Greeted && now >= stale && waits) Enter(SessionState.Playing, now, "");
        }

        /// <summary>
        /// Advance the clock; at least every 100 ms. <paramref name="sending"/>: an upload is in
        /// progress.
        /// </summary>
        public void Tick(double now, bool sending = false)
        {
            if (sending && now - uploadSince < UploadMs) lastHeard = now;
            if (now - lastTick > 2000) lastHeard = now; // asleep: what arrived was not read yet
            lastTick = now;
            if (wire == Wire.Closed) TickClosed(now);
            else if (wire == Wire.Opening && now - wireSince > OpenMs)
                Drop($"the connection did not open within {OpenMs / 1000} s", now);
            else if (wire == Wire.Open || wire == Wire.Greeted) TickOpen(now);
        }

        private void TickClosed(double now)
        {
            if (!(now >= retryAt)) return;
            if (State == SessionState.Full)
                Enter(SessionState.Connecting, now, "Asking for a seat again");
            Connect(now);
        }

        private void TickOpen(double now)
        {
            if (now - lastHeard > SilenceMs)
            {
                Drop($"the server was silent for {SilenceMs / 1000} s", now);
                return;
            }
            if (now < nextPing) return;
            commands.Enqueue(SessionCommand.SendPing); // also while the world loads
            pinged = now;
            pings++;
            nextPing = now + (pings < FastPings ? FastPingMs : PingMs);
        }

        private bool Hear(double now)
        {
            if (wire != Wire.Open && wire != Wire.Greeted) return false;
            lastHeard = now;
            return true;
        }

        private void Begin(double now)
        {
            if (Hello.Role == "spectator") return;
            string[] themes = Welcome.World.Themes;
            if (Array.IndexOf(themes, Theme) < 0) Theme = themes.Length > 0 ? themes[0] : null;
            Start(now, PromptFrames != null);
        }

        private void Start(double now, bool withPromptFrames)
        {
            startSent = true;
            restartDue = false;
            SendsPromptFrames = withPromptFrames;
            bool upload = withPromptFrames && PromptFrames.Length > 0;
            if (upload) commands.Enqueue(SessionCommand.SendPromptFrames);
            commands.Enqueue(SessionCommand.SendStart);
            Await(now, "Opening the world");
            if (!upload) return;
            uploadSince = now;
            stale = double.PositiveInfinity; // until the server accepted the prompt frames
        }

        /// <summary>Get whether the next <c>start</c> names the number of prompt frames.</summary>
        public bool SendsPromptFrames { get; private set; }

        private void StartRejected(ProtocolError error, double now)
        {
            if (!running)
            {
                commands.Enqueue(SessionCommand.SendBye);
                Hello.Resume = null;
                Fail(error, now);
                return;
            }
            if (!hasBefore) return;
            Theme = themeBefore;
            Seed = seedBefore;
            PromptFrames = framesBefore;
            hasBefore = false;
            stale = now;
        }

        private static bool RejectsStart(string code) =>
            code == "bad_prompt_frame" || code == "unknown_theme" || code == "unsupported";

        private void WorldLost(string detail, double now) =>
            Enter(SessionState.Reconnecting, now, Or(detail, "The world is being restarted"));

        private void EnterQueue(long position, string detail, double now)
        {
            Enter(SessionState.Queued, now, Or(detail, "All seats are taken"));
            Position = position;
        }

        private void Await(double now, string detail)
        {
            stale = now + StaleMs;
            bool back = State == SessionState.Reconnecting;
            Enter(back ? SessionState.Reconnecting : SessionState.Loading, now, detail);
        }

        private void Enter(SessionState state, double now, string detail)
        {
            if (State != state) Since = now;
            State = state;
            Detail = detail;
            if (state != SessionState.Loading) Progress = double.NaN;
            if (state != SessionState.Queued) Position = -1;
        }

        private void Connect(double now)
        {
            wire = Wire.Opening;
            wireSince = now;
            retryAt = double.NaN;
            commands.Enqueue(SessionCommand.Connect);
        }

        private void HangUp()
        {
            wire = Wire.Closed;
            retryAt = double.NaN;
            commands.Enqueue(SessionCommand.Disconnect);
        }

        private void Drop(string reason, double now)
        {
            commands.Enqueue(SessionCommand.Disconnect);
            Closed(reason, now);
        }

        private void GiveUp(bool first, string reason, double now) =>
            Fail(
                new ProtocolError(
                    first ? "unreachable" : "connection_lost",
                    first
                        ? "The server does not answer"
                        : "The connection was lost and did not come back",
                    "a WebSocket connection to /session",
                    $"{reason} ({Attempt} attempts in {Math.Round((now - Since) / 1000)} s)",
                    "Check that the server is running and that this machine can reach it."
                ),
                now
            );

        private ProtocolError Unsupported(Welcome welcome) =>
            new ProtocolError(
                "unsupported",
                "The server chose a codec that this client does not decode",
                string.Join(", ", Hello.Codecs),
                welcome.Codec,
                "Update the older of client and server.",
                "welcome.codec"
            );

        private void Fail(ProtocolError error, double now)
        {
            Error = error;
            Enter(SessionState.Error, now, error.Message);
            if (wire != Wire.Closed) HangUp();
        }

        private static string Or(string text, string otherwise) =>
            text.Length > 0 ? text : otherwise;
    }
}
