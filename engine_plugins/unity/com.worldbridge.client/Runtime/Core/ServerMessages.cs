using System;

namespace WorldBridge
{
    /// <summary>
    /// Decode the messages of a server. Frames and pongs are decoded without allocation; the others
    /// are rare. Unknown fields are skipped; anything else that is wrong raises
    /// <see cref="ProtocolError"/> with the field's path.
    /// </summary>
    public sealed class ServerMessages
    {
        private const int Name = 64;
        private const int Sentence = 2000;
        private const int AllOfHeader = 0xff;
        private static readonly string[] Codecs = { "h264", "vp8", "jpeg", "rgb", "bgra", "i420" };
        private static readonly string[] Roles = { "engine", "player", "spectator" };
        private static readonly string[] Transports = { "webrtc", "websocket", "zeromq" };
        private static readonly string[] SeatStates = { "queued", "seated", "watching" };
        private static readonly string[] States =
        {
            "loading",
            "playing",
            "queued",
            "ready",
            "reconnecting",
        };
        private static readonly string[] Events =
        {
            "control_requested",
            "seat_warning",
            "session_resumed",
            "world_lost",
            "world_reset",
            "world_restored",
        };
        private static readonly string[] WorldKinds = { "autoregressive", "procedural" };
        private static readonly string[] ControlKinds = { "axis", "button", "look" };

        private readonly MessagePackReader reader = new MessagePackReader();
        private byte[] source;

        /// <summary>Get the last <c>welcome</c>.</summary>
        public Welcome Welcome { get; private set; }

        /// <summary>Get the last <c>status</c>.</summary>
        public Status Status { get; private set; }

        /// <summary>Get the last <c>error</c>.</summary>
        public ProtocolError Error { get; private set; }

        /// <summary>Get name and detail of the last <c>event</c>.</summary>
        public string EventName { get; private set; }

        /// <summary>Get the detail of the last <c>event</c>.</summary>
        public string EventDetail { get; private set; }

        /// <summary>Get the seconds of the last <c>event</c>; NaN: none.</summary>
        public double EventSeconds { get; private set; } = double.NaN;

        /// <summary>Get the missed frames of the last <c>event</c>; -1: none.</summary>
        public long EventFrames { get; private set; } = -1;

        /// <summary>Get the client time of the last <c>pong</c> in ms.</summary>
        public double PongTime { get; private set; }

        /// <summary>Get the server time of the last <c>pong</c> in ms.</summary>
        public double PongServerTime { get; private set; }

        /// <summary>Get the last <c>answer</c>.</summary>
        public string Sdp { get; private set; }

        /// <summary>
        /// Decode one message and return its kind. A frame is written into <paramref name="frame"/>,
        /// anything else into the property of its name.
        /// </summary>
        public MessageKind Read(byte[] data, int offset, int count, Frame frame)
        {
            if (count > Protocol.MaxServerMessage)
                throw new ProtocolError(
                    "message_too_large",
                    "The message is too large",
                    $"at most {Protocol.MaxServerMessage} bytes",
                    $"{count} bytes"
                );
            source = data;
            reader.Reset(data, offset, count);
            reader.CheckWhole();
            MessageKind kind = ReadType();
            reader.Reset(data, offset, count);
            switch (kind)
            {
                case MessageKind.Frame:
                    ReadFrame(frame);
                    break;
                case MessageKind.Pong:
                    ReadPong();
                    break;
                case MessageKind.Welcome:
                    ReadWelcome();
                    break;
                case MessageKind.Status:
                    ReadStatus();
                    break;
                case MessageKind.Event:
                    ReadEvent();
                    break;
                case MessageKind.Error:
                    ReadError();
                    break;
                case MessageKind.Answer:
                    ReadAnswer();
                    break;
            }
            return kind;
        }

        private MessageKind ReadType()
        {
            int keys = reader.Map("");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("");
                if (!reader.Is("type"))
                {
                    reader.Skip(1);
                    continue;
                }
                reader.Text("type");
                if (reader.Is("frame")) return MessageKind.Frame;
                if (reader.Is("pong")) return MessageKind.Pong;
                if (reader.Is("status")) return MessageKind.Status;
                if (reader.Is("welcome")) return MessageKind.Welcome;
                if (reader.Is("event")) return MessageKind.Event;
                if (reader.Is("error")) return MessageKind.Error;
                if (reader.Is("answer")) return MessageKind.Answer;
                if (reader.Is("stats")) return MessageKind.Stats;
                throw new ProtocolError(
                    "unknown_type",
                    "The message has an unknown type",
                    "a message of a server",
                    reader.LastText(),
                    "",
                    "type"
                );
            }
            throw new ProtocolError(
                "unknown_type",
                "The message has no type",
                "a key named type",
                "none",
                "",
                "type"
            );
        }

        private void ReadFrame(Frame frame)
        {
            frame.ImageLength = -1;
            frame.DepthLength = -1;
            frame.Codec = null;
            frame.DepthScale = double.NaN;
            bool header = false;
            int keys = reader.Map("frame");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("frame");
                if (reader.Is("header"))
                {
                    ReadHeader(ref frame.Header);
                    header = true;
                }
                else if (reader.Is("image"))
                {
                    if (OptionalBytes("frame.image", out int start, out int count))
                        frame.TakeImage(source, start, count);
                }
                else if (reader.Is("depth"))
                {
                    if (OptionalBytes("frame.depth", out int start, out int count))
                        frame.TakeDepth(source, start, count);
                }
                else if (reader.Is("codec"))
                    frame.Codec = reader.TryNil() ? null : OneOf("frame.codec", Codecs);
                else if (reader.Is("depth_scale"))
                    frame.DepthScale = OptionalFloat("frame.depth_scale");
                else reader.Skip(1);
            }
            if (!header) throw Missing("frame.header");
        }

        private void ReadHeader(ref FrameHeader header)
        {
            header = new FrameHeader { Rtp = -1, Batch = 1 };
            int seen = 0;
            int keys = reader.Map("frame.header");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("frame.header");
                if (reader.Is("frame"))
                {
                    header.Frame = reader.Int("frame.header.frame");
                    seen |= 1;
                }
                else if (reader.Is("input_sequence"))
                {
                    header.InputSequence = reader.Int("frame.header.input_sequence", -1);
                    seen |= 2;
                }
                else if (reader.Is("input_time"))
                {
                    header.InputTime = reader.Float("frame.header.input_time");
                    seen |= 4;
                }
                else if (reader.Is("t_input"))
                {
                    header.TInput = reader.Float("frame.header.t_input");
                    seen |= 8;
                }
                else if (reader.Is("t_controls"))
                {
                    header.TControls = reader.Float("frame.header.t_controls");
                    seen |= 16;
                }
                else if (reader.Is("t_tokens"))
                {
                    header.TTokens = reader.Float("frame.header.t_tokens");
                    seen |= 32;
                }
                else if (reader.Is("t_frame"))
                {
                    header.TFrame = reader.Float("frame.header.t_frame");
                    seen |= 64;
                }
                else if (reader.Is("camera"))
                {
                    ReadPose(ref header.Camera);
                    seen |= 128;
                }
                else if (reader.Is("t_gateway"))
                    header.TGateway = reader.Float("frame.header.t_gateway");
                else if (reader.Is("t_encoded"))
                    header.TEncoded = reader.Float("frame.header.t_encoded");
                else if (reader.Is("t_sent")) header.TSent = reader.Float("frame.header.t_sent");
                else if (reader.Is("width"))
                    header.Width = (int)reader.Int("frame.header.width", 0, 8192);
                else if (reader.Is("height"))
                    header.Height = (int)reader.Int("frame.header.height", 0, 8192);
                else if (reader.Is("rtp"))
                    header.Rtp = reader.TryNil()
                        ? -1
                        : reader.Int("frame.header.rtp", 0, uint.MaxValue);
                else if (reader.Is("dropped")) header.Dropped = reader.Int("frame.header.dropped");
                else if (reader.Is("batch")) header.Batch = reader.Int("frame.header.batch", 1);
                else reader.Skip(2);
            }
            if (seen != AllOfHeader) throw Missing("frame.header");
        }

        private void ReadPose(ref Pose pose)
        {
            const string At = "frame.header.camera";
            pose = Pose.Identity;
            int keys = reader.Map(At);
            for (int i = 0; i < keys; i++)
            {
                reader.Text(At);
                if (reader.Is("position"))
                {
                    Exactly("frame.header.camera.position", 3);
                    pose.X = reader.Float("frame.header.camera.position[0]");
                    pose.Y = reader.Float("frame.header.camera.position[1]");
                    pose.Z = reader.Float("frame.header.camera.position[2]");
                }
                else if (reader.Is("orientation"))
                {
                    Exactly("frame.header.camera.orientation", 4);
                    pose.QX = reader.Float("frame.header.camera.orientation[0]");
                    pose.QY = reader.Float("frame.header.camera.orientation[1]");
                    pose.QZ = reader.Float("frame.header.camera.orientation[2]");
                    pose.QW = reader.Float("frame.header.camera.orientation[3]");
                }
                else if (reader.Is("fov_y"))
                    pose.FovY = reader.Float("frame.header.camera.fov_y", 1, 179);
                else reader.Skip(3);
            }
        }

        private void ReadPong()
        {
            double time = double.NaN, server = double.NaN;
            int keys = reader.Map("pong");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("pong");
                if (reader.Is("time")) time = reader.Float("pong.time");
                else if (reader.Is("server_time")) server = reader.Float("pong.server_time");
                else reader.Skip(1);
            }
            if (double.IsNaN(time)) throw Missing("pong.time");
            if (double.IsNaN(server)) throw Missing("pong.server_time");
            PongTime = time;
            PongServerTime = server;
        }

        private void ReadStatus()
        {
            var status = new Status();
            int keys = reader.Map("status");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("status");
                if (reader.Is("state")) status.State = OneOf("status.state", States);
                else if (reader.Is("detail"))
                    status.Detail = reader.String("status.detail", Sentence);
                else if (reader.Is("progress"))
                    status.Progress = OptionalFloat("status.progress", 0, 1);
                else if (reader.Is("position")) status.Position = OptionalInt("status.position");
                else if (reader.Is("expected_wait_s"))
                    status.ExpectedWaitS = OptionalFloat("status.expected_wait_s");
                else reader.Skip(1);
            }
            Required("status.state", status.State);
            Status = status;
        }

        private void ReadEvent()
        {
            string name = null, detail = "";
            double seconds = double.NaN;
            long frames = -1;
            int keys = reader.Map("event");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("event");
                if (reader.Is("name")) name = OneOf("event.name", Events);
                else if (reader.Is("detail")) detail = reader.String("event.detail", Sentence);
                else if (reader.Is("seconds")) seconds = OptionalFloat("event.seconds");
                else if (reader.Is("frames")) frames = OptionalInt("event.frames");
                else reader.Skip(1);
            }
            Required("event.name", name);
            EventName = name;
            EventDetail = detail;
            EventSeconds = seconds;
            EventFrames = frames;
        }

        private void ReadError()
        {
            string code = null, message = null, expected = "", got = "", remedy = "", path = "";
            bool fatal = true;
            int keys = reader.Map("error");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("error");
                if (reader.Is("code")) code = reader.String("error.code", Name);
                else if (reader.Is("message")) message = reader.String("error.message", Sentence);
                else if (reader.Is("expected")) expected = reader.String("error.expected", Sentence);
                else if (reader.Is("got")) got = reader.String("error.got", Sentence);
                else if (reader.Is("remedy")) remedy = reader.String("error.remedy", Sentence);
                else if (reader.Is("path")) path = reader.String("error.path", Sentence);
                else if (reader.Is("fatal")) fatal = reader.Bool("error.fatal");
                else reader.Skip(1);
            }
            Required("error.code", code);
            Required("error.message", message);
            Error = new ProtocolError(code, message, expected, got, remedy, path, fatal);
        }

        private void ReadAnswer()
        {
            string sdp = null;
            int keys = reader.Map("answer");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("answer");
                if (reader.Is("sdp")) sdp = reader.String("answer.sdp", 60000);
                else reader.Skip(1);
            }
            Required("answer.sdp", sdp);
            Sdp = sdp;
        }

        private void ReadWelcome()
        {
            var welcome = new Welcome();
            long version = Protocol.Version;
            int keys = reader.Map("welcome");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("welcome");
                if (reader.Is("server")) welcome.Server = reader.String("welcome.server", Name);
                else if (reader.Is("session"))
                    welcome.Session = reader.String("welcome.session", Name);
                else if (reader.Is("resume"))
                    welcome.Resume = reader.String("welcome.resume", 256);
                else if (reader.Is("role")) welcome.Role = OneOf("welcome.role", Roles);
                else if (reader.Is("world")) welcome.World = ReadWorld();
                else if (reader.Is("seat")) ReadSeat(welcome);
                else if (reader.Is("seats")) ReadSeats(welcome);
                else if (reader.Is("transport"))
                    welcome.Transport = OneOf("welcome.transport", Transports);
                else if (reader.Is("codec")) welcome.Codec = OneOf("welcome.codec", Codecs);
                else if (reader.Is("started")) welcome.Started = reader.Bool("welcome.started");
                else if (reader.Is("ice_servers")) welcome.IceServers = ReadIceServers();
                else if (reader.Is("kept_s")) welcome.KeptS = OptionalFloat("welcome.kept_s");
                else if (reader.Is("version")) version = reader.Int("welcome.version");
                else reader.Skip(1);
            }
            if (version != Protocol.Version)
                throw ProtocolError.Bad("welcome", $"version {Protocol.Version}", $"{version}");
            Required("welcome.server", welcome.Server);
            Required("welcome.session", welcome.Session);
            Required("welcome.resume", welcome.Resume);
            Required("welcome.role", welcome.Role);
            Required("welcome.world", welcome.World);
            Required("welcome.seat", welcome.SeatState);
            Required("welcome.transport", welcome.Transport);
            Required("welcome.codec", welcome.Codec);
            if (welcome.SeatsTotal < 0) throw Missing("welcome.seats");
            Welcome = welcome;
        }

        private WorldSpec ReadWorld()
        {
            const string At = "welcome.world";
            var world = new WorldSpec();
            int keys = reader.Map(At);
            for (int i = 0; i < keys; i++)
            {
                reader.Text(At);
                if (reader.Is("name")) world.Name = reader.String(At + ".name", Name);
                else if (reader.Is("title")) world.Title = reader.String(At + ".title", Sentence);
                else if (reader.Is("width")) world.Width = Even(At + ".width");
                else if (reader.Is("height")) world.Height = Even(At + ".height");
                else if (reader.Is("fps")) world.Fps = reader.Float(At + ".fps", 0.1, 1000);
                else if (reader.Is("frames_per_latent"))
                    world.FramesPerLatent = (int)reader.Int(At + ".frames_per_latent", 1, 64);
                else if (reader.Is("themes")) world.Themes = Strings(At + ".themes", 256, Name);
                else if (reader.Is("action_schema")) world.ActionSchema = ReadControls();
                else if (reader.Is("context_latents"))
                    world.ContextLatents = reader.Int(At + ".context_latents");
                else if (reader.Is("kind")) world.Kind = OneOf(At + ".kind", WorldKinds);
                else if (reader.Is("max_prompt_frames"))
                    world.MaxPromptFrames = (int)reader.Int(At + ".max_prompt_frames", 0, 9);
                else if (reader.Is("conditionings"))
                    world.Conditionings = Strings(At + ".conditionings", 16, Name);
                else if (reader.Is("depth")) world.Depth = reader.Bool(At + ".depth");
                else reader.Skip(2);
            }
            Required(At + ".name", world.Name);
            Required(At + ".title", world.Title);
            Required(At + ".themes", world.Themes);
            Required(At + ".action_schema", world.ActionSchema);
            Required(At + ".kind", world.Kind);
            if (world.Width == 0) throw Missing(At + ".width");
            if (world.Height == 0) throw Missing(At + ".height");
            if (world.Fps == 0) throw Missing(At + ".fps");
            if (world.FramesPerLatent == 0) throw Missing(At + ".frames_per_latent");
            if (world.ContextLatents < 0) throw Missing(At + ".context_latents");
            return world;
        }

        private ControlSpec[] ReadControls()
        {
            const string At = "welcome.world.action_schema";
            var controls = new ControlSpec[reader.Array(At, 64)];
            for (int n = 0; n < controls.Length; n++)
            {
                string at = $"{At}[{n}]";
                var control = new ControlSpec();
                int keys = reader.Map(at);
                for (int i = 0; i < keys; i++)
                {
                    reader.Text(at);
                    if (reader.Is("name")) control.Name = reader.String(at + ".name", Name);
                    else if (reader.Is("kind")) control.Kind = OneOf(at + ".kind", ControlKinds);
                    else if (reader.Is("range"))
                    {
                        Exactly(at + ".range", 2);
                        control.Low = reader.Float(at + ".range[0]");
                        control.High = reader.Float(at + ".range[1]");
                    }
                    else if (reader.Is("low_keys"))
                        control.LowKeys = Strings(at + ".low_keys", 8, Name);
                    else if (reader.Is("high_keys"))
                        control.HighKeys = Strings(at + ".high_keys", 8, Name);
                    else if (reader.Is("default_axis"))
                        control.DefaultAxis = (int)OptionalInt(at + ".default_axis", 3);
                    else if (reader.Is("inverted")) control.Inverted = reader.Bool(at + ".inverted");
                    else reader.Skip(4);
                }
                Required(at + ".name", control.Name);
                Required(at + ".kind", control.Kind);
                controls[n] = control;
            }
            return controls;
        }

        private void ReadSeat(Welcome welcome)
        {
            int keys = reader.Map("welcome.seat");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("welcome.seat");
                if (reader.Is("state"))
                    welcome.SeatState = OneOf("welcome.seat.state", SeatStates);
                else if (reader.Is("position"))
                    welcome.SeatPosition = OptionalInt("welcome.seat.position");
                else if (reader.Is("expected_wait_s"))
                    welcome.ExpectedWaitS = OptionalFloat("welcome.seat.expected_wait_s");
                else reader.Skip(2);
            }
            Required("welcome.seat.state", welcome.SeatState);
        }

        private void ReadSeats(Welcome welcome)
        {
            int keys = reader.Map("welcome.seats");
            for (int i = 0; i < keys; i++)
            {
                reader.Text("welcome.seats");
                if (reader.Is("used")) welcome.SeatsUsed = reader.Int("welcome.seats.used");
                else if (reader.Is("total")) welcome.SeatsTotal = reader.Int("welcome.seats.total");
                else reader.Skip(2);
            }
            if (welcome.SeatsUsed < 0) throw Missing("welcome.seats.used");
            if (welcome.SeatsTotal < 0) throw Missing("welcome.seats.total");
        }

        private IceServer[] ReadIceServers()
        {
            const string At = "welcome.ice_servers";
            var servers = new IceServer[reader.Array(At, 8)];
            for (int n = 0; n < servers.Length; n++)
            {
                string at = $"{At}[{n}]";
                var server = new IceServer();
                int keys = reader.Map(at);
                for (int i = 0; i < keys; i++)
                {
                    reader.Text(at);
                    if (reader.Is("urls")) server.Urls = Strings(at + ".urls", 8, Sentence);
                    else if (reader.Is("username"))
                        server.Username = OptionalString(at + ".username");
                    else if (reader.Is("credential"))
                        server.Credential = OptionalString(at + ".credential");
                    else reader.Skip(3);
                }
                Required(at + ".urls", server.Urls);
                servers[n] = server;
            }
            return servers;
        }

        private bool OptionalBytes(string path, out int start, out int count)
        {
            start = count = 0;
            if (reader.TryNil()) return false;
            start = reader.Bytes(path, out count);
            return true;
        }

        private string OneOf(string path, string[] names)
        {
            reader.Text(path);
            foreach (string name in names)
                if (reader.Is(name))
                    return name;
            throw ProtocolError.Bad(path, string.Join(", ", names), reader.LastText());
        }

        private int Even(string path)
        {
            long value = reader.Int(path, 2, 8192);
            if (value % 2 != 0) throw ProtocolError.Bad(path, "an even number", $"{value}");
            return (int)value;
        }

        private void Exactly(string path, int count)
        {
            int got = reader.Array(path, count);
            if (got != count) throw ProtocolError.Bad(path, $"{count} items", $"{got}");
        }

        private string[] Strings(string path, int most, int longest)
        {
            var values = new string[reader.Array(path, most)];
            for (int i = 0; i < values.Length; i++)
                values[i] = reader.String($"{path}[{i}]", longest);
            return values;
        }

        private string OptionalString(string path) =>
            reader.TryNil() ? null : reader.String(path, Sentence);

        private double OptionalFloat(
            string path,
            double low = double.MinValue,
            double high = double.MaxValue
        ) => reader.TryNil() ? double.NaN : reader.Float(path, low, high);

        private long OptionalInt(string path, long high = 9007199254740991) =>
            reader.TryNil() ? -1 : reader.Int(path, 0, high);

        private static void Required(string path, object value)
        {
            if (value == null) throw Missing(path);
        }

        private static ProtocolError Missing(string path) =>
            ProtocolError.Bad(path, "this field", "nothing");
    }
}
