namespace WorldBridge
{
    /// <summary>The kinds of messages that a server sends.</summary>
    public enum MessageKind
    {
        /// <summary>The client is admitted.</summary>
        Welcome,

        /// <summary>The session's state changed.</summary>
        Status,

        /// <summary>One frame.</summary>
        Frame,

        /// <summary>Something happened that is no change of state.</summary>
        Event,

        /// <summary>The server refused something.</summary>
        Error,

        /// <summary>The answer to a ping.</summary>
        Pong,

        /// <summary>The answer to a WebRTC offer.</summary>
        Answer,

        /// <summary>Counters.</summary>
        Stats,
    }

    /// <summary>The <c>hello</c> message. Null stands for an absent field.</summary>
    public sealed class Hello
    {
        /// <summary>What the client is, for logs.</summary>
        public string Client = "";

        /// <summary><c>engine</c>, <c>player</c> or <c>spectator</c>.</summary>
        public string Role = "player";

        /// <summary>Ways to receive frames, the preferred one first.</summary>
        public string[] Transports = { "websocket" };

        /// <summary>Codecs that the client decodes.</summary>
        public string[] Codecs = { "jpeg" };

        /// <summary>The server's secret, if it requires one.</summary>
        public string Token;

        /// <summary>The resume token of an earlier session.</summary>
        public string Resume;

        /// <summary>The session that a spectator watches.</summary>
        public string Session;

        /// <summary>The only world to play.</summary>
        public string World;

        /// <summary>Largest frame: width and height in pixels; zero: any.</summary>
        public int MaxWidth, MaxHeight;

        /// <summary>Whether to send depth with every frame.</summary>
        public bool Depth;

        /// <summary>Whether to wait in the queue if every seat is taken.</summary>
        public bool Wait;
    }

    /// <summary>The full state of one controller at one moment. Its arrays are filled, never replaced.</summary>
    public sealed class ControllerState
    {
        /// <summary>Grows with every state.</summary>
        public long Sequence;

        /// <summary>Client time in ms.</summary>
        public double Time;

        /// <summary>Left X, left Y, right X, right Y; -1 to 1; down is +1.</summary>
        public readonly double[] Axes = new double[4];

        /// <summary>Bit i is button i of the W3C standard gamepad.</summary>
        public int Buttons;

        /// <summary>The first <see cref="KeyCount"/> are the held keys (<c>KeyboardEvent.code</c>).</summary>
        public readonly string[] Keys = new string[InputSampler.MaxKeys];

        /// <summary>Number of held keys.</summary>
        public int KeyCount;

        /// <summary>Pixels moved since the session began; +x right, +y down.</summary>
        public double PointerX, PointerY;

        /// <summary>Whether <see cref="Camera"/> counts.</summary>
        public bool HasCamera;

        /// <summary>The client's camera.</summary>
        public Pose Camera;
    }

    /// <summary>One control of a world.</summary>
    public sealed class ControlSpec
    {
        /// <summary>Such as <c>forward</c> or <c>yaw</c>.</summary>
        public string Name;

        /// <summary><c>axis</c>, <c>button</c> or <c>look</c>.</summary>
        public string Kind;

        /// <summary>The lowest and the highest value.</summary>
        public double Low = -1, High = 1;

        /// <summary>Default keys of the lowest and of the highest value.</summary>
        public string[] LowKeys = { }, HighKeys = { };

        /// <summary>Index into the axes of a state; -1: none.</summary>
        public int DefaultAxis = -1;

        /// <summary>Whether the axis counts against the control.</summary>
        public bool Inverted;
    }

    /// <summary>A world as seen from outside.</summary>
    public sealed class WorldSpec
    {
        /// <summary>Name and title.</summary>
        public string Name, Title;

        /// <summary>Size of a frame in pixels.</summary>
        public int Width, Height;

        /// <summary>Frames per second.</summary>
        public double Fps;

        /// <summary>Frames that are made together.</summary>
        public int FramesPerLatent;

        /// <summary>The themes.</summary>
        public string[] Themes;

        /// <summary>The controls.</summary>
        public ControlSpec[] ActionSchema;

        /// <summary>Past latents that the model attends to.</summary>
        public long ContextLatents = -1;

        /// <summary><c>autoregressive</c> or <c>procedural</c>.</summary>
        public string Kind;

        /// <summary>The most prompt frames that a session can start from.</summary>
        public int MaxPromptFrames;

        /// <summary>What the model receives besides its own tokens.</summary>
        public string[] Conditionings = { };

        /// <summary>Whether frames can carry depth.</summary>
        public bool Depth;
    }

    /// <summary>A STUN or TURN server.</summary>
    public sealed class IceServer
    {
        /// <summary>Its addresses.</summary>
        public string[] Urls;

        /// <summary>User and secret; null: none.</summary>
        public string Username, Credential;
    }

    /// <summary>The <c>welcome</c> message.</summary>
    public sealed class Welcome
    {
        /// <summary>Server, session, resume token and role.</summary>
        public string Server, Session, Resume, Role;

        /// <summary>The world.</summary>
        public WorldSpec World;

        /// <summary><c>queued</c>, <c>seated</c> or <c>watching</c>.</summary>
        public string SeatState;

        /// <summary>Place in the queue; -1: none.</summary>
        public long SeatPosition = -1;

        /// <summary>Expected wait in s; NaN: unknown.</summary>
        public double ExpectedWaitS = double.NaN;

        /// <summary>Seats in use and in all.</summary>
        public long SeatsUsed = -1, SeatsTotal = -1;

        /// <summary>How frames travel and how they are compressed.</summary>
        public string Transport, Codec;

        /// <summary>Whether the session's world runs already.</summary>
        public bool Started;

        /// <summary>Servers for WebRTC.</summary>
        public IceServer[] IceServers = { };

        /// <summary>How long the seat is kept once the connection is lost, in s; NaN: unknown.</summary>
        public double KeptS = double.NaN;
    }

    /// <summary>The <c>status</c> message.</summary>
    public sealed class Status
    {
        /// <summary>The state, as the protocol names it.</summary>
        public string State;

        /// <summary>For people.</summary>
        public string Detail = "";

        /// <summary>How much is loaded, 0 to 1; NaN: unknown.</summary>
        public double Progress = double.NaN;

        /// <summary>Place in the queue; -1: none.</summary>
        public long Position = -1;

        /// <summary>Expected wait in s; NaN: unknown.</summary>
        public double ExpectedWaitS = double.NaN;
    }

    /// <summary>Which input a frame answers, its camera, and its time stamps in ms of server time.</summary>
    public struct FrameHeader
    {
        /// <summary>Number of the frame; sequence of the state that it answers, -1: none.</summary>
        public long Frame, InputSequence;

        /// <summary>Client time of that state in ms.</summary>
        public double InputTime;

        /// <summary>Server times of the steps on the frame's way.</summary>
        public double TInput, TControls, TTokens, TFrame, TGateway, TEncoded, TSent;

        /// <summary>The camera that the frame is seen from, in the protocol's coordinates.</summary>
        public Pose Camera;

        /// <summary>Size in pixels.</summary>
        public int Width, Height;

        /// <summary>RTP time stamp; -1: none.</summary>
        public long Rtp;

        /// <summary>Frames that this client did not get; sessions stepped together.</summary>
        public long Dropped, Batch;
    }

    /// <summary>A frame. Its buffers grow and are used again.</summary>
    public sealed class Frame
    {
        /// <summary>The header.</summary>
        public FrameHeader Header;

        /// <summary>The first <see cref="ImageLength"/> bytes are the image file.</summary>
        public byte[] Image = { };

        /// <summary>Length of the image in bytes; -1: none.</summary>
        public int ImageLength = -1;

        /// <summary>Codec of the image; null: none.</summary>
        public string Codec;

        /// <summary>The first <see cref="DepthLength"/> bytes are uint16, little-endian, [height, width].</summary>
        public byte[] Depth = { };

        /// <summary>Length of the depth in bytes; -1: none.</summary>
        public int DepthLength = -1;

        /// <summary>Metres per unit of depth; NaN: none.</summary>
        public double DepthScale = double.NaN;

        /// <summary>Client time of receipt in ms.</summary>
        public double Received;

        internal void TakeImage(byte[] data, int offset, int count) =>
            ImageLength = Copy(data, offset, count, ref Image);

        internal void TakeDepth(byte[] data, int offset, int count) =>
            DepthLength = Copy(data, offset, count, ref Depth);

        private static int Copy(byte[] data, int offset, int count, ref byte[] into)
        {
            if (into.Length < count) into = new byte[count + count / 2];
            System.Buffer.BlockCopy(data, offset, into, 0, count);
            return count;
        }
    }

    /// <summary>A frame that the engine rendered, for worlds with the conditioning <c>observations</c>.</summary>
    public sealed class Observation
    {
        /// <summary>The camera that it is seen from, in the protocol's coordinates.</summary>
        public Pose Camera;

        /// <summary>Size in pixels; at most 640 x 384 in all.</summary>
        public int Width, Height;

        /// <summary>uint8 [height, width, 3], the upper row first.</summary>
        public byte[] Rgb;

        /// <summary>uint16, little-endian, [height, width]; 0: nothing was rendered, the world draws.</summary>
        public byte[] Depth;

        /// <summary>Metres per unit of depth along the camera's axis.</summary>
        public double DepthScale = 0.001;

        /// <summary>Whether the world forgets first what it has drawn.</summary>
        public bool Fresh;
    }
}
