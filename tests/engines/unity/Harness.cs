// Drive the package's core from the command line: dotnet Harness.dll VERB ARGUMENT...
// Results are JSON on standard output; tests/engines/unity/test_unity.py compares them.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Reflection;
using System.Text;
using System.Threading;
using NUnit.Framework;
using WorldBridge;

internal static class Harness
{
    private static int Main(string[] arguments)
    {
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
        switch (arguments[0])
        {
            case "unit":
                return RunTests();
            case "decode":
                for (int i = 1; i < arguments.Length; i++) Console.WriteLine(Decode(arguments[i]));
                return 0;
            case "encode":
                Encode();
                return 0;
            case "gamepads":
                Gamepads();
                return 0;
            case "poses":
                Poses();
                return 0;
            case "play":
                return Play(arguments[1], double.Parse(arguments[2]), arguments[3], arguments[4]);
            case "leave":
                return Leave(arguments);
            case "guide":
                return Guide(arguments[1]);
            case "rounds":
                return Rounds(arguments[1], int.Parse(arguments[2]));
            case "replay":
                return Replay(arguments[1], long.Parse(arguments[2]));
            case "garbage":
                return Garbage(arguments);
        }
        return 2;
    }

    private static int RunTests()
    {
        int passed = 0, failed = 0;
        foreach (Type type in Assembly.GetExecutingAssembly().GetTypes())
            foreach (MethodInfo method in type.GetMethods())
            {
                if (method.GetCustomAttribute<TestAttribute>() == null) continue;
                try
                {
                    method.Invoke(Activator.CreateInstance(type), null);
                    passed++;
                }
                catch (TargetInvocationException error)
                {
                    failed++;
                    Console.Error.WriteLine($"{type.Name}.{method.Name}: {error.InnerException}");
                }
            }
        Console.WriteLine($"{{\"passed\": {passed}, \"failed\": {failed}}}");
        return failed == 0 ? 0 : 1;
    }

    // -- codec ---------------------------------------------------------------------------------

    private static string Decode(string file)
    {
        byte[] data = File.ReadAllBytes(file);
        // At an offset: the reader must not look outside its part of the buffer.
        var padded = new byte[data.Length + 32];
        Array.Copy(data, 0, padded, 16, data.Length);
        var messages = new ServerMessages();
        var frame = new Frame();
        try
        {
            return new Json(messages, messages.Read(padded, 16, data.Length, frame), frame).Text;
        }
        catch (ProtocolError error)
        {
            return $"{{\"code\": \"{error.Code}\", \"path\": \"{error.Path}\"}}";
        }
    }

    private static void Encode()
    {
        var to = new MessagePackWriter();
        void Print(string name) =>
            Console.WriteLine($"{name} {BitConverter.ToString(to.Buffer, 0, to.Length)}");
        Protocol.WriteHello(
            to,
            new Hello
            {
                Client = "page 1.0",
                Role = "spectator",
                Transports = new[] { "webrtc", "websocket" },
                Codecs = new[] { "h264", "vp8", "jpeg" },
                Token = "secret",
                Resume = "resume-1",
                Session = "s-1",
                World = "tiny",
                MaxWidth = 1920,
                MaxHeight = 1080,
                Depth = true,
                Wait = true,
            }
        );
        Print("client_hello");
        Protocol.WriteHello(to, new Hello());
        Print("client_hello_smallest");
        var newest = new ControllerState { Sequence = 41, Time = 1234.5, Buttons = 65537 };
        new[] { 0.25, -1.0, 0.5, 1.0 }.CopyTo(newest.Axes, 0);
        newest.Keys[0] = "KeyW";
        newest.Keys[1] = "ShiftLeft";
        newest.KeyCount = 2;
        newest.PointerX = 320.5;
        newest.PointerY = -12;
        newest.HasCamera = true;
        newest.Camera = new Pose { X = 1.5, Y = 1.6, Z = -2.25, QW = 1, FovY = 62.5 };
        var older = new ControllerState { Sequence = 40, Time = 1220 };
        Protocol.WriteInput(to, new[] { newest, older });
        Print("client_input");
        Protocol.WriteBye(to);
        Print("client_bye");
        Protocol.WriteBye(to, keep: true);
        Print("client_bye_keep");
        foreach (string type in new[] { "stats", "request_control", "hand_over" })
        {
            Protocol.WriteBare(to, type);
            Print("client_" + type);
        }
        Protocol.WriteOffer(to, "v=0\r\n");
        Print("client_offer");
        Protocol.WriteCredit(to, 2);
        Print("client_credit");
        Protocol.WriteObserve(
            to,
            new Observation
            {
                Camera = new Pose { X = 1, Y = 1.6, Z = -2, QW = 1, FovY = 50 },
                Width = 2,
                Height = 1,
                Rgb = new byte[] { 0, 1, 2, 3, 4, 5 },
                Depth = new byte[] { 0, 0, 0xe8, 3 },
                Fresh = true,
            }
        );
        Print("client_observe");
        Protocol.WriteFrameShown(to, 7, 1300.25, 1310.5, -5.5, 16.68);
        Print("client_frame_shown");
        Protocol.WriteFrameShown(to, 8, 1300.25, 1310.5, double.NaN, double.NaN);
        Print("client_frame_shown_smallest");
        Protocol.WritePing(to, 99.5);
        Print("client_ping");
        var file = new byte[18];
        new byte[] { 0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a }.CopyTo(file, 0);
        Protocol.WritePromptFrame(to, 1, 2, file, 0, partSize: 6);
        Print("client_prompt_frame");
        Protocol.WritePromptDepth(to, new byte[] { 0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0 }, 0.001, 0, 6);
        Print("client_prompt_depth");
        Protocol.WriteStart(to, "city", 9007199254740991, "a city at night", 2);
        Print("client_start");
        Protocol.WriteStart(to, null, -1, null, -1);
        Print("client_start_smallest");
    }

    /// <summary>Encode what each line says; the numbers come from the fixtures.</summary>
    private static void Gamepads()
    {
        var sampler = new InputSampler();
        string line;
        while ((line = Console.ReadLine()) != null)
        {
            string[] words = line.Split(' ');
            var v = new double[5];
            for (int i = 0; i < 5; i++) v[i] = double.Parse(words[i]);
            int bits = 0;
            for (int i = 5; i < words.Length; i++) bits |= 1 << int.Parse(words[i]);
            sampler.SetPad(v[1], v[2], v[3], v[4], bits);
            sampler.Sample(v[0]);
        }
        var to = new MessagePackWriter();
        Protocol.WriteInput(to, sampler);
        Console.WriteLine(BitConverter.ToString(to.Buffer, 0, to.Length));
    }

    /// <summary>Take poses of the protocol to Unity's coordinates and back.</summary>
    private static void Poses()
    {
        string line;
        var to = new MessagePackWriter();
        var rows = new double[16];
        while ((line = Console.ReadLine()) != null)
        {
            string[] w = line.Split(' ');
            var v = new double[8];
            for (int i = 0; i < 8; i++) v[i] = double.Parse(w[i]);
            var pose = new Pose
            {
                X = v[0],
                Y = v[1],
                Z = v[2],
                QX = v[3],
                QY = v[4],
                QZ = v[5],
                QW = v[6],
                FovY = v[7],
            };
            Pose unity = Coordinates.Flip(pose);
            Pose back = Coordinates.Flip(unity);
            var state = new ControllerState { Camera = back, HasCamera = true };
            Protocol.WriteInput(to, new[] { state });
            Coordinates.Matrix(unity, rows);
            string unityRows = Json.List(rows);
            Coordinates.Matrix(back, rows);
            string hex = BitConverter.ToString(to.Buffer, 0, to.Length);
            Console.WriteLine(
                $"{{\"hex\": \"{hex}\", \"rows\": {Json.List(rows)}, \"unity\": {unityRows}}}"
            );
        }
    }

    /// <summary>Decode damaged messages: nothing but ProtocolError may come out.</summary>
    private static int Garbage(string[] files)
    {
        var random = new Random(1);
        var messages = new ServerMessages();
        var frame = new Frame();
        int refused = 0, accepted = 0;
        for (int i = 1; i < files.Length; i++)
        {
            byte[] original = File.ReadAllBytes(files[i]);
            for (int n = 0; n < 2000; n++)
            {
                var data = (byte[])original.Clone();
                int changes = 1 + random.Next(3);
                for (int c = 0; c < changes; c++)
                    data[random.Next(data.Length)] = (byte)random.Next(256);
                int length = random.Next(4) == 0 ? random.Next(data.Length) : data.Length;
                try
                {
                    messages.Read(data, 0, length, frame);
                    accepted++;
                }
                catch (ProtocolError)
                {
                    refused++;
                }
            }
        }
        Console.WriteLine($"{{\"refused\": {refused}, \"accepted\": {accepted}}}");
        return 0;
    }

    // -- a player ------------------------------------------------------------------------------

    /// <summary>Play to the last frame and print the hash of every image.</summary>
    private static int Replay(string server, long last)
    {
        var shown = new List<uint>();
        using (var client = new WorldClient(server, new Hello { Client = "unity core" }))
        {
            client.Play();
            for (long number = -1; number != last && client.State != SessionState.Error; )
            {
                client.SetPad(0, -1, 0, 0, 0);
                if (client.TryTakeFrame(out Frame frame))
                {
                    number = frame.Header.Frame;
                    uint hash = 0x811c9dc5;
                    for (int i = 0; i < frame.ImageLength; i++)
                        hash = (hash ^ frame.Image[i]) * 0x01000193;
                    shown.Add(hash);
                    client.FrameShown(frame);
                }
                Thread.Sleep(1);
            }
            string error = Json.Quote(client.Error?.Code);
            string remedy = Json.Quote(client.Error?.Remedy);
            Console.WriteLine(
                $"{{\"shown\": [{string.Join(", ", shown)}], \"error\": {error}, \"remedy\": {remedy}}}"
            );
        }
        return 0;
    }

    /// <summary>Leave servers that do not answer, and print how long each took.</summary>
    private static int Leave(string[] arguments)
    {
        var took = new double[arguments.Length - 1];
        for (int i = 0; i < took.Length; i++)
        {
            var client = new WorldClient(arguments[i + 1], new Hello { Client = "unity core" });
            client.Play();
            Thread.Sleep(500);
            double before = client.Now;
            client.Dispose();
            took[i] = client.Now - before;
        }
        Console.WriteLine(Json.List(took));
        return 0;
    }

    /// <summary>Give a world a red wall and play until its frames show it where it stands.</summary>
    private static int Guide(string server)
    {
        // A quarter turn to the left: the scene's axes are not the world's.
        double half = Math.Sqrt(0.5);
        var camera = new Pose { X = 7, Y = 1.6, Z = 7, QY = half, QW = half, FovY = 50 };
        var wall = new Observation
        {
            Camera = camera,
            Width = 60,
            Height = 40,
            Rgb = new byte[3 * 60 * 40],
            Depth = new byte[2 * 60 * 40],
            Fresh = true,
        };
        for (int i = 0; i < 60 * 40; i++)
        {
            wall.Rgb[3 * i] = 220;
            if (i % 60 < 20) continue; // nothing stands there
            wall.Depth[2 * i] = 2000 & 255;
            wall.Depth[2 * i + 1] = 2000 >> 8;
        }
        var hello = new Hello { Client = "unity core", Role = "engine", Codecs = new[] { "bgra" } };
        using (var client = new WorldClient(server, hello))
        {
            client.SetCamera(camera);
            client.Play("zoo", 1);
            int after = -1;
            while (after < 0 && client.Now < 200000 && client.State != SessionState.Error)
            {
                Thread.Sleep(1);
                if (!client.TryTakeFrame(out Frame frame)) continue;
                if (client.State == SessionState.Loading) client.Observe(wall);
                client.FrameShown(frame);
                Pose seen = client.SceneCamera(frame.Header);
                double away = Math.Abs(seen.X - 7) + Math.Abs(seen.Z - 7) + Math.Abs(seen.QY - half);
                if (away < 1e-6 && IsRed(frame)) after = (int)frame.Header.Frame;
            }
            Console.WriteLine(
                $"{{\"takes\": {(client.TakesObservations ? 1 : 0)}, \"shown_after\": {after}, "
                    + $"\"error\": {Json.Quote(client.Error?.Code)}}}"
            );
        }
        return 0;
    }

    private static bool IsRed(Frame frame)
    {
        int width = frame.Header.Width, height = frame.Header.Height;
        for (int y = 8; y < height - 8; y++)
            for (int x = 40; x < width - 4; x++)
            {
                int at = 4 * (y * width + x);
                if (frame.Image[at] > 90 || frame.Image[at + 1] > 90 || frame.Image[at + 2] < 150) return false;
            }
        return true;
    }

    /// <summary>Play and stop again and again; count the threads and sockets that are left.</summary>
    private static int Rounds(string server, int rounds)
    {
        double slowest = 0;
        int played = 0, threads = 0, sockets = 0;
        for (int round = 0; round <= rounds; round++)
        {
            var client = new WorldClient(server, new Hello { Client = "unity core" });
            client.Play();
            double end = client.Now + 20000;
            bool shown = false;
            while (!shown && client.Now < end && client.State != SessionState.Error)
            {
                shown = client.TryTakeFrame(out Frame frame);
                if (shown) client.FrameShown(frame);
                Thread.Sleep(1);
            }
            if (shown) played++;
            double before = client.Now;
            client.Dispose();
            slowest = Math.Max(slowest, client.Now - before);
            if (round > 0) continue; // what .NET itself needs is there after the first
            threads = Directory.GetDirectories("/proc/self/task").Length;
            sockets = Sockets();
        }
        for (int i = 0; i < 50 && Directory.GetDirectories("/proc/self/task").Length > threads; i++)
            Thread.Sleep(100);
        Console.WriteLine(
            $"{{\"played\": {played}, \"slowest_stop_ms\": {Json.Number(slowest)}, "
                + $"\"threads_left\": {Directory.GetDirectories("/proc/self/task").Length - threads}, "
                + $"\"sockets_left\": {Sockets() - sockets}}}"
        );
        return 0;
    }

    private static int Sockets()
    {
        int count = 0;
        foreach (string link in Directory.GetFiles("/proc/self/fd"))
            if (readlink(link, Target, Target.Length) > 7 && Target[0] == 's' && Target[1] == 'o')
                count++;
        return count;
    }

    private static readonly byte[] Target = new byte[256];

    [System.Runtime.InteropServices.DllImport("libc")]
    private static extern int readlink(string path, byte[] target, int size);

    private static long Allocated()
    {
#if MONO
        return 0; // Mono does not count
#else
        return GC.GetTotalAllocatedBytes(true);
#endif
    }

    private static int Play(string server, double seconds, string world, string codec)
    {
        var hello = new Hello
        {
            Client = "unity core",
            World = world == "" ? null : world,
            Codecs = new[] { codec },
        };
        using (var client = new WorldClient(server, hello))
        {
            client.Play();
            double first = double.NaN, end = 25000, answered = -1;
            long shown = 0, allocated = 0, lastFrame = -1;
            int collections = 0;
            var trips = new List<double>(4096);
            var pings = new List<double>(4096);
            var quarters = new List<long>(4096); // bytes allocated in a quarter of a second each
            double quarter = double.PositiveInfinity;
            while (client.Now < end && client.State != SessionState.Error)
            {
                double phase = client.Now / 1000;
                client.SetPad(0, -1, Math.Sin(phase), 0, 0);
                if (client.TryTakeFrame(out Frame frame))
                {
                    if (codec == "jpeg" && (frame.Image[0] != 0xff || frame.Image[1] != 0xd8)) return 3;
                    if (codec == "bgra" && frame.ImageLength != 4 * frame.Header.Width * frame.Header.Height)
                        return 5;
                    if (frame.Header.Frame <= lastFrame) return 4;
                    lastFrame = frame.Header.Frame;
                    client.FrameShown(frame);
                    if (frame.Header.InputSequence > answered)
                    {
                        answered = frame.Header.InputSequence;
                        trips.Add(client.Now - frame.Header.InputTime);
                    }
                    shown++;
                    if (shown == 30) // after the buffers have grown
                    {
                        first = client.Now;
                        end = first + 1000 * seconds;
                        allocated = Allocated();
                        quarter = client.Now + 250;
                        collections = GC.CollectionCount(0);
                        trips.Clear();
                        pings.Clear();
                    }
                }
                if (client.Now > quarter)
                {
                    long total = Allocated();
                    quarters.Add(total - allocated);
                    allocated = Allocated();
                    quarter = client.Now + 250;
                }
                double ping = client.RoundTrip;
                if (!double.IsNaN(ping) && (pings.Count == 0 || pings[pings.Count - 1] != ping))
                    pings.Add(ping);
                Thread.Sleep(1);
            }
            quarters.Sort();
            collections = GC.CollectionCount(0) - collections;
            double span = (client.Now - first) / 1000;
            trips.Sort();
            pings.Sort();
            double ping50 = pings.Count == 0 ? double.NaN : pings[pings.Count / 2];
            double middle = trips.Count == 0 ? double.NaN : trips[trips.Count / 2];
            Console.WriteLine(
                "{"
                    + $"\"state\": \"{client.State}\", \"error\": {Json.Quote(client.Error?.Code)}, "
                    + $"\"frames\": {shown}, \"replaced\": {client.Replaced}, "
                    + $"\"fps\": {Json.Number((shown - 30) / span)}, "
                    + $"\"allocated\": {(quarters.Count > 0 ? quarters[quarters.Count / 2] : -1)}, "
                    + $"\"collections\": {collections}, "
                    + $"\"round_trip_ms\": {Json.Number(ping50)}, "
                    + $"\"input_to_frame_ms\": {Json.Number(middle)}, "
                    + $"\"detail\": {Json.Quote(client.Detail)}"
                    + "}"
            );
        }
        return 0;
    }
}

/// <summary>Print a decoded message as the fixtures' JSON does.</summary>
internal sealed class Json
{
    private readonly StringBuilder to = new StringBuilder();

    public Json(ServerMessages m, MessageKind kind, Frame frame)
    {
        to.Append($"{{\"type\": \"{kind.ToString().ToLowerInvariant()}\"");
        switch (kind)
        {
            case MessageKind.Frame:
                AddFrame(frame);
                break;
            case MessageKind.Pong:
                Add("time", Number(m.PongTime));
                Add("server_time", Number(m.PongServerTime));
                break;
            case MessageKind.Status:
                Add("state", Quote(m.Status.State));
                Add("detail", Quote(m.Status.Detail));
                Add("progress", Number(m.Status.Progress));
                Add("position", Optional(m.Status.Position));
                Add("expected_wait_s", Number(m.Status.ExpectedWaitS));
                break;
            case MessageKind.Event:
                Add("name", Quote(m.EventName));
                Add("detail", Quote(m.EventDetail));
                Add("seconds", Number(m.EventSeconds));
                Add("frames", Optional(m.EventFrames));
                break;
            case MessageKind.Error:
                Add("code", Quote(m.Error.Code));
                Add("message", Quote(m.Error.Message));
                Add("expected", Quote(m.Error.Expected));
                Add("got", Quote(m.Error.Got));
                Add("remedy", Quote(m.Error.Remedy));
                Add("path", Quote(m.Error.Path));
                Add("fatal", Bool(m.Error.Fatal));
                break;
            case MessageKind.Answer:
                Add("sdp", Quote(m.Sdp));
                break;
            case MessageKind.Welcome:
                AddWelcome(m.Welcome);
                break;
        }
        to.Append('}');
    }

    public string Text => to.ToString();

    public static string Number(double value) =>
        double.IsNaN(value) || double.IsInfinity(value) ? "null" : value.ToString("R");

    public static string Quote(string text)
    {
        if (text == null) return "null";
        var quoted = new StringBuilder("\"");
        foreach (char unit in text)
            if (unit < ' ' || unit > '~' || unit == '"' || unit == '\\')
                quoted.Append($"\\u{(int)unit:x4}");
            else quoted.Append(unit);
        return quoted.Append('"').ToString();
    }

    public static string List(params double[] values) =>
        "[" + string.Join(", ", Array.ConvertAll(values, Number)) + "]";

    private static string Optional(long value) => value < 0 ? "null" : value.ToString();

    private static string Bool(bool value) => value ? "true" : "false";

    private static string Quotes(string[] values) =>
        "[" + string.Join(", ", Array.ConvertAll(values, Quote)) + "]";

    private static string Hex(byte[] data, int count) =>
        count < 0
            ? "null"
            : $"{{\"hex\": \"{BitConverter.ToString(data, 0, count).Replace("-", "").ToLowerInvariant()}\"}}";

    private void Add(string key, string json) => to.Append($", \"{key}\": {json}");

    private void AddFrame(Frame frame)
    {
        FrameHeader h = frame.Header;
        Pose c = h.Camera;
        to.Append($", \"header\": {{\"frame\": {h.Frame}");
        Add("input_sequence", h.InputSequence.ToString());
        Add("input_time", Number(h.InputTime));
        Add("t_input", Number(h.TInput));
        Add("t_controls", Number(h.TControls));
        Add("t_tokens", Number(h.TTokens));
        Add("t_frame", Number(h.TFrame));
        Add(
            "camera",
            $"{{\"position\": {List(c.X, c.Y, c.Z)}, "
                + $"\"orientation\": {List(c.QX, c.QY, c.QZ, c.QW)}, \"fov_y\": {Number(c.FovY)}}}"
        );
        Add("t_gateway", Number(h.TGateway));
        Add("t_encoded", Number(h.TEncoded));
        Add("t_sent", Number(h.TSent));
        Add("width", h.Width.ToString());
        Add("height", h.Height.ToString());
        Add("rtp", Optional(h.Rtp));
        Add("dropped", h.Dropped.ToString());
        Add("batch", h.Batch.ToString());
        to.Append('}');
        Add("image", Hex(frame.Image, frame.ImageLength));
        Add("codec", Quote(frame.Codec));
        Add("depth", Hex(frame.Depth, frame.DepthLength));
        Add("depth_scale", Number(frame.DepthScale));
    }

    private void AddWelcome(Welcome w)
    {
        WorldSpec world = w.World;
        Add("server", Quote(w.Server));
        Add("session", Quote(w.Session));
        Add("resume", Quote(w.Resume));
        Add("role", Quote(w.Role));
        to.Append($", \"world\": {{\"name\": {Quote(world.Name)}");
        Add("title", Quote(world.Title));
        Add("width", world.Width.ToString());
        Add("height", world.Height.ToString());
        Add("fps", Number(world.Fps));
        Add("frames_per_latent", world.FramesPerLatent.ToString());
        Add("themes", Quotes(world.Themes));
        Add("action_schema", "[" + string.Join(", ", Array.ConvertAll(world.ActionSchema, Control)) + "]");
        Add("context_latents", world.ContextLatents.ToString());
        Add("kind", Quote(world.Kind));
        Add("max_prompt_frames", world.MaxPromptFrames.ToString());
        Add("conditionings", Quotes(world.Conditionings));
        Add("depth", Bool(world.Depth));
        to.Append('}');
        to.Append($", \"seat\": {{\"state\": {Quote(w.SeatState)}");
        Add("position", Optional(w.SeatPosition));
        Add("expected_wait_s", Number(w.ExpectedWaitS));
        to.Append('}');
        Add("seats", $"{{\"used\": {w.SeatsUsed}, \"total\": {w.SeatsTotal}}}");
        Add("transport", Quote(w.Transport));
        Add("codec", Quote(w.Codec));
        Add("started", Bool(w.Started));
        Add("ice_servers", "[" + string.Join(", ", Array.ConvertAll(w.IceServers, Ice)) + "]");
        Add("kept_s", Number(w.KeptS));
        Add("version", Protocol.Version.ToString());
    }

    private static string Control(ControlSpec c) =>
        $"{{\"name\": {Quote(c.Name)}, \"kind\": {Quote(c.Kind)}, \"range\": {List(c.Low, c.High)}, "
        + $"\"low_keys\": {Quotes(c.LowKeys)}, \"high_keys\": {Quotes(c.HighKeys)}, "
        + $"\"default_axis\": {Optional(c.DefaultAxis)}, \"inverted\": {Bool(c.Inverted)}}}";

    private static string Ice(IceServer s) =>
        $"{{\"urls\": {Quotes(s.Urls)}, \"username\": {Quote(s.Username)}, "
        + $"\"credential\": {Quote(s.Credential)}}}";
}
