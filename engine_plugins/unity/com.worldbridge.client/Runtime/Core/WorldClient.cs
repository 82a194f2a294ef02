using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Net.Sockets;
using System.Threading;

namespace WorldBridge
{
    /// <summary>
    /// Run a <see cref="Session"/> on two background threads: one opens and reads, one keeps the session's time
    /// and sends. All methods may be called from the engine's thread and never wait for the network.
    /// </summary>
    public sealed class WorldClient : IDisposable
    {
        private const int TickMs = 4;
        private const int ConnectTimeoutMs = 5000;
        private const int JoinMs = 500;
        private const int MostEvents = 64; // that wait for the engine

        private readonly object gate = new object();
        private readonly Stopwatch clock = Stopwatch.StartNew();
        private readonly Uri address;
        private readonly Session session;
        private readonly InputSampler sampler = new InputSampler();
        private readonly ClockOffset clockOffset = new ClockOffset();
        private readonly LatestFrame frames = new LatestFrame();
        private readonly WorldOrigin origin = new WorldOrigin();
        private readonly Queue<KeyValuePair<string, string>> events =
            new Queue<KeyValuePair<string, string>>();
        private readonly MessagePackWriter writer = new MessagePackWriter();
        private readonly Thread pump;
        private MessagePackWriter nextObservation = new MessagePackWriter();
        private MessagePackWriter observation = new MessagePackWriter();
        private bool observationDue;
        private Thread reader;
        private Connection connection;
        private int generation; // of connections: what an old one reports is ignored
        private long shownFrame = -1;
        private double shownReceived;
        private double shownAt;
        private double countedSince;
        private int counted;
        private byte[] promptDepth;
        private double promptDepthScale;
        private int creditDue;
        private string offer;
        private string answer;
        private volatile bool disposed;

        /// <summary>
        /// Create a client of a server such as <c>ws://127.0.0.1:8000</c>, or <c>tcp://127.0.0.1:5555</c>
        /// for ZeroMQ. Raises <see cref="ArgumentException"/> for another kind of address.
        /// </summary>
        public WorldClient(string server, Hello hello)
        {
            address = SessionAddress(server);
            if (IsZeroMq) hello.Transports = new[] { "zeromq" };
            session = new Session(hello);
            pump = new Thread(Pump) { IsBackground = true, Name = "worldbridge session" };
            pump.Start();
        }

        /// <summary>Get client time in ms.</summary>
        public double Now => clock.Elapsed.TotalMilliseconds;

        /// <summary>Get the state.</summary>
        public SessionState State
        {
            get { lock (gate) return session.State; }
        }

        /// <summary>Get what people should know about the state.</summary>
        public string Detail
        {
            get { lock (gate) return session.Detail; }
        }

        /// <summary>Get how much is loaded, 0 to 1; NaN: unknown.</summary>
        public double Progress
        {
            get { lock (gate) return session.Progress; }
        }

        /// <summary>Get the last error; null: none.</summary>
        public ProtocolError Error
        {
            get { lock (gate) return session.Error; }
        }

        /// <summary>Get the world; null before the welcome.</summary>
        public WorldSpec World
        {
            get { lock (gate) return session.Welcome?.World; }
        }

        /// <summary>Get the newest welcome; null before it.</summary>
        public Welcome Welcome
        {
            get { lock (gate) return session.Welcome; }
        }

        /// <summary>Get the latest round trip in ms; NaN: unknown.</summary>
        public double RoundTrip
        {
            get { lock (gate) return clockOffset.RoundTrip; }
        }

        /// <summary>Get client time minus server time in ms; NaN: unknown.</summary>
        public double Offset
        {
            get { lock (gate) return clockOffset.Offset; }
        }

        /// <summary>Get the frames received per second; NaN: unknown.</summary>
        public double FrameRate { get; private set; } = double.NaN;

        /// <summary>Get the ms from reading the controls to showing a frame that answers them; NaN: unknown.</summary>
        public double Latency { get; private set; } = double.NaN;

        /// <summary>Get whether the world is seen from the camera that is sent.</summary>
        public bool FollowsCamera => Takes("camera");

        /// <summary>Get whether the world takes frames that the engine rendered.</summary>
        public bool TakesObservations => Takes("observations");

        /// <summary>Get how many frames arrived but were replaced by newer ones.</summary>
        public long Replaced => frames.Replaced;

        private bool IsZeroMq => address.Scheme == "tcp";

        /// <summary>
        /// Return the address to connect to. Accepts tcp (ZeroMQ, with a port), and ws, wss, http and
        /// https, of which a path is kept. Raises <see cref="ArgumentException"/>.
        /// </summary>
        public static Uri SessionAddress(string server)
        {
            if (!Uri.TryCreate(server, UriKind.Absolute, out Uri given))
                throw new ArgumentException($"an address such as ws://127.0.0.1:8000 was expected, got {server}");
            if (given.Scheme == "tcp" && given.Port > 0) return given;
            string scheme = given.Scheme.Replace("http", "ws");
            if (scheme != "ws" && scheme != "wss")
                throw new ArgumentException(
                    $"ws, wss, http, https or tcp with a port was expected, got {server}"
                );
            int port = given.Port > 0 ? given.Port : scheme == "wss" ? 443 : 80;
            string path = given.AbsolutePath.TrimEnd('/');
            if (!path.EndsWith("/session")) path += "/session";
            return new UriBuilder(scheme, given.Host, port, path).Uri;
        }

        /// <summary>
        /// Connect and start a world. Null theme, seed -1: any. Prompt frames are PNG, JPEG or WebP
        /// files, oldest first; null: as the server is set up, empty: from the theme. The newest may come
        /// with its depth, see <see cref="SetPromptDepth"/>.
        /// </summary>
        public void Play(string theme = null, long seed = -1, byte[][] promptFrames = null)
        {
            lock (gate) session.Play(theme, seed, promptFrames, Now);
        }

        /// <summary>Restart the world. Null prompt frames keep the present ones.</summary>
        public void Restart(string theme = null, long seed = -1, byte[][] promptFrames = null)
        {
            lock (gate) session.Restart(theme ?? session.Theme, seed, promptFrames, Now);
        }

        /// <summary>
        /// Set the depth of the newest of the next prompt frames, for worlds with depth: a PNG file of
        /// 16-bit grey values, in steps of <paramref name="scale"/> metres; null: the world estimates it.
        /// </summary>
        public void SetPromptDepth(byte[] file, double scale = 0.001)
        {
            lock (gate)
            {
                promptDepth = file;
                promptDepthScale = scale;
            }
        }

        /// <summary>Leave: the seat is free at once.</summary>
        public void Leave()
        {
            lock (gate) session.Leave(Now);
        }

        /// <summary>Set whether a key (<c>KeyboardEvent.code</c>) is held.</summary>
        public void SetKey(string code, bool held)
        {
            lock (gate) sampler.SetKey(code, held);
        }

        /// <summary>Set sticks and buttons; see <see cref="InputSampler.SetPad"/>.</summary>
        public void SetPad(double leftX, double leftY, double rightX, double rightY, int buttons)
        {
            lock (gate) sampler.SetPad(leftX, leftY, rightX, rightY, buttons);
        }

        /// <summary>Add pointer movement in pixels; +x right, +y down.</summary>
        public void MovePointer(double dx, double dy)
        {
            lock (gate) sampler.MovePointer(dx, dy);
        }

        /// <summary>Set the client's own camera, in the protocol's coordinates.</summary>
        public void SetCamera(Pose pose)
        {
            lock (gate) sampler.SetCamera(pose);
        }

        /// <summary>Release all keys, sticks and buttons, as when the window loses the focus.</summary>
        public void ReleaseAll()
        {
            lock (gate) sampler.ReleaseAll();
        }

        /// <summary>
        /// Return where a frame is seen from, in the protocol's axes: in the scene, if the world follows
        /// the camera that is sent.
        /// </summary>
        public Pose SceneCamera(in FrameHeader header)
        {
            lock (gate) return FollowsCamera ? origin.ToScene(header) : header.Camera;
        }

        /// <summary>Take the next event of the server, such as <c>seat_warning</c>, and its detail.</summary>
        public bool TryTakeEvent(out string name, out string detail)
        {
            lock (gate)
            {
                KeyValuePair<string, string> next = events.Count > 0 ? events.Dequeue() : default;
                name = next.Key;
                detail = next.Value;
                return name != null;
            }
        }

        /// <summary>Take the newest frame; see <see cref="LatestFrame.TryTake"/>.</summary>
        public bool TryTakeFrame(out Frame frame) => frames.TryTake(out frame);

        /// <summary>Report that a taken frame is on the screen.</summary>
        public void FrameShown(Frame frame)
        {
            lock (gate)
            {
                shownFrame = frame.Header.Frame;
                shownReceived = frame.Received;
                shownAt = Now;
                if (frame.Header.InputSequence >= 0) Latency = shownAt - frame.Header.InputTime;
                session.FrameShown(shownAt);
            }
        }

        /// <summary>Send a WebRTC offer with all its candidates, after a welcome by <c>webrtc</c>.</summary>
        public void Offer(string sdp)
        {
            lock (gate) offer = sdp;
        }

        /// <summary>Take the answer to the offer.</summary>
        public bool TryTakeAnswer(out string sdp)
        {
            lock (gate)
            {
                sdp = answer;
                answer = null;
                return sdp != null;
            }
        }

        /// <summary>
        /// Give the world a frame that the engine rendered. The newest one is sent by the session's
        /// thread. Raises <see cref="ArgumentException"/> for sizes that do not fit.
        /// </summary>
        public void Observe(Observation given)
        {
            lock (gate)
            {
                Protocol.WriteObserve(nextObservation, given);
                observationDue = true;
            }
        }

        /// <summary>Leave and end the threads; waits 500 ms at most.</summary>
        public void Dispose()
        {
            if (disposed) return;
            double until = Now + JoinMs;
            Leave();
            disposed = true;
            pump.Join(JoinMs);
            Disconnect();
            reader?.Join((int)Math.Max(0, until - Now));
        }

        private void Pump()
        {
            while (!disposed)
            {
                Step();
                Thread.Sleep(TickMs);
            }
            Step(); // says bye
        }

        private void Step()
        {
            lock (gate) session.Tick(Now);
            while (true)
            {
                SessionCommand command;
                lock (gate)
                    if (!session.TryCommand(out command))
                        break;
                Do(command);
            }
            SendShown();
            SendInput();
            SendObservation();
            SendOffer();
            SendCredit();
        }

        private void Do(SessionCommand command)
        {
            switch (command)
            {
                case SessionCommand.Connect:
                    Connect();
                    break;
                case SessionCommand.Disconnect:
                    Disconnect();
                    break;
                case SessionCommand.SendPromptFrames:
                    SendPromptFrames();
                    break;
                default:
                    lock (gate) Write(command);
                    Send();
                    break;
            }
        }

        private void Write(SessionCommand command)
        {
            if (command == SessionCommand.SendHello) Protocol.WriteHello(writer, session.Hello);
            else if (command == SessionCommand.SendPing) Protocol.WritePing(writer, Now);
            else if (command == SessionCommand.SendBye) Protocol.WriteBye(writer);
            else
            {
                int count = session.SendsPromptFrames ? session.PromptFrames.Length : -1;
                Protocol.WriteStart(writer, session.Theme, session.Seed, null, count);
                frames.Clear();
            }
        }

        private void SendPromptFrames()
        {
            byte[][] files;
            byte[] depth;
            lock (gate)
            {
                files = session.PromptFrames;
                depth = session.Welcome != null && session.Welcome.World.Depth ? promptDepth : null;
            }
            for (int index = 0; index < files.Length; index++)
                for (int part = 0; part < Protocol.PromptParts(files[index]); part++)
                {
                    Protocol.WritePromptFrame(writer, index, files.Length, files[index], part);
                    Send();
                    lock (gate) session.Tick(Now, sending: true);
                }
            for (int part = 0; depth != null && part < Protocol.PromptParts(depth); part++)
            {
                Protocol.WritePromptDepth(writer, depth, promptDepthScale, part);
                Send();
            }
        }

        private void SendShown()
        {
            lock (gate)
            {
                if (shownFrame < 0 || !session.Greeted) return;
                double offset = clockOffset.Offset;
                Protocol.WriteFrameShown(
                    writer,
                    shownFrame,
                    shownReceived,
                    shownAt,
                    offset,
                    double.NaN
                );
                shownFrame = -1;
            }
            Send();
        }

        private void SendInput()
        {
            lock (gate)
            {
                if (!session.AcceptsInput || !sampler.Due(Now)) return;
                ControllerState state = sampler.Sample(Now);
                if (state.HasCamera) origin.Sent(state.Sequence, state.Camera);
                Protocol.WriteInput(writer, sampler);
            }
            Send();
        }

        private void SendObservation()
        {
            lock (gate)
            {
                if (!observationDue || !session.AcceptsInput) return;
                MessagePackWriter filled = nextObservation;
                nextObservation = observation;
                observation = filled;
                observationDue = false;
            }
            Send(observation);
        }

        private void SendOffer()
        {
            lock (gate)
            {
                if (offer == null || !session.Greeted) return;
                Protocol.WriteOffer(writer, offer);
                offer = null;
            }
            Send();
        }

        // Without credit a server sends no frame over ZeroMQ: it grants the newest ones.
        private void SendCredit()
        {
            lock (gate)
            {
                if (creditDue == 0 || !session.Greeted) return;
                Protocol.WriteCredit(writer, creditDue);
                creditDue = 0;
            }
            Send();
        }

        private void Send() => Send(writer);

        private void Send(MessagePackWriter message)
        {
            Connection to = connection;
            if (to == null) return;
            try
            {
                to.Send(message.Buffer, message.Length);
            }
            catch (IOException error)
            {
                Lost(generation, error.Message);
            }
        }

        private void Connect()
        {
            Disconnect();
            int mine;
            Connection opening = IsZeroMq ? (Connection)new ZeroMqConnection() : new WebSocketConnection();
            lock (gate)
            {
                mine = generation;
                connection = opening;
                creditDue = 0;
            }
            reader = new Thread(() => Read(opening, mine))
            {
                IsBackground = true,
                Name = "worldbridge reader",
            };
            reader.Start();
        }

        private void Disconnect()
        {
            lock (gate)
            {
                generation++;
                connection?.Close();
                connection = null;
            }
        }

        private void Read(Connection from, int mine)
        {
            try
            {
                from.Open(address, ConnectTimeoutMs);
                lock (gate)
                {
                    if (mine != generation) return;
                    clockOffset.Reset();
                    session.Opened(Now);
                }
                ReadMessages(from, mine);
            }
            catch (IOException error)
            {
                Lost(mine, error.Message);
            }
            catch (SocketException error)
            {
                Lost(mine, error.Message);
            }
            catch (System.Security.Authentication.AuthenticationException error)
            {
                Lost(mine, error.Message);
            }
            catch (ProtocolError error)
            {
                lock (gate)
                    if (mine == generation)
                        session.Invalid(error, Now);
            }
        }

        private void ReadMessages(Connection from, int mine)
        {
            var messages = new ServerMessages();
            Action heard = () =>
            {
                lock (gate)
                    if (mine == generation)
                        session.BytesArrived(Now);
            };
            while (true)
            {
                from.Receive(heard);
                double received = Now;
                // Only this thread fills frames while its connection is the present one.
                lock (gate)
                {
                    if (mine != generation) return;
                    MessageKind kind = messages.Read(from.Message, 0, from.Length(0), frames.Next);
                    if (kind == MessageKind.Frame) TakeParts(from);
                    Take(kind, messages, received);
                }
            }
        }

        // Over ZeroMQ the image and the depth of a frame are parts of their own.
        private void TakeParts(Connection from)
        {
            Frame frame = frames.Next;
            if (from.Parts > 1) frame.TakeImage(from.Message, from.Length(0), from.Length(1));
            if (from.Parts > 2)
                frame.TakeDepth(from.Message, from.Length(0) + from.Length(1), from.Length(2));
        }

        private void Take(MessageKind kind, ServerMessages messages, double received)
        {
            switch (kind)
            {
                case MessageKind.Frame:
                    session.ReceivedOther(received);
                    if (IsZeroMq) creditDue++;
                    Count(received);
                    // Without an image it is the header of a frame that travels by WebRTC.
                    frames.Next.Received = received;
                    frames.Publish();
                    return;
                case MessageKind.Pong:
                    session.ReceivedOther(received);
                    clockOffset.Pong(messages.PongTime, received, messages.PongServerTime);
                    return;
                case MessageKind.Welcome:
                    session.Received(messages.Welcome, received);
                    if (IsZeroMq) creditDue = 2;
                    offer = answer = null;
                    return;
                case MessageKind.Status:
                    session.Received(messages.Status, received);
                    return;
                case MessageKind.Event:
                    session.ReceivedEvent(messages.EventName, messages.EventDetail, received);
                    if (events.Count == MostEvents) events.Dequeue();
                    events.Enqueue(
                        new KeyValuePair<string, string>(messages.EventName, messages.EventDetail)
                    );
                    return;
                case MessageKind.Error:
                    session.Received(messages.Error, received);
                    return;
                case MessageKind.Answer:
                    session.ReceivedOther(received);
                    answer = messages.Sdp;
                    return;
                default:
                    session.ReceivedOther(received);
                    return;
            }
        }

        private void Count(double now)
        {
            counted++;
            if (now - countedSince < 1000) return;
            FrameRate = 1000 * counted / (now - countedSince);
            counted = 0;
            countedSince = now;
        }

        private bool Takes(string conditioning)
        {
            WorldSpec world = World;
            return world != null && Array.IndexOf(world.Conditionings, conditioning) >= 0;
        }

        private void Lost(int mine, string reason)
        {
            lock (gate)
            {
                if (mine != generation) return;
                connection?.Close();
                connection = null;
                session.Closed(reason, Now);
            }
        }
    }
}
