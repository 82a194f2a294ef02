using System;

namespace WorldBridge
{
    /// <summary>Encode the messages of a client, protocol version 2.</summary>
    public static class Protocol
    {
        /// <summary>Version of the protocol.</summary>
        public const int Version = 2;

        /// <summary>Longest message of a server in bytes.</summary>
        public const int MaxServerMessage = 8388608;

        /// <summary>Most frames that may be granted at a time.</summary>
        public const int MaxCredit = 8;

        /// <summary>Most pixels of an <see cref="Observation"/>.</summary>
        public const int MaxObservedPixels = 640 * 384;

        /// <summary>Most bytes of an image file in one <c>prompt_frame</c>.</summary>
        public const int PromptPart = 262144;

        /// <summary>Write <c>hello</c>.</summary>
        public static void WriteHello(MessagePackWriter to, Hello hello)
        {
            Begin(to, "hello", 13);
            Text(to, "client", hello.Client);
            Text(to, "role", hello.Role);
            Texts(to, "transports", hello.Transports);
            Texts(to, "codecs", hello.Codecs);
            Text(to, "token", hello.Token);
            Text(to, "resume", hello.Resume);
            Text(to, "session", hello.Session);
            Text(to, "world", hello.World);
            to.String("max_frame");
            if (hello.MaxWidth == 0) to.Nil();
            else
            {
                to.Array(2);
                to.Int(hello.MaxWidth);
                to.Int(hello.MaxHeight);
            }
            to.String("depth");
            to.Bool(hello.Depth);
            to.String("wait");
            to.Bool(hello.Wait);
            to.String("version");
            to.Int(Version);
        }

        /// <summary>Write one part of an image file, where <paramref name="part"/> counts from 0.</summary>
        public static void WritePromptFrame(
            MessagePackWriter to,
            int index,
            int count,
            byte[] file,
            int part,
            int partSize = PromptPart
        )
        {
            int start = part * partSize;
            Begin(to, "prompt_frame", 6);
            Int(to, "index", index);
            Int(to, "count", count);
            Int(to, "part", part);
            Int(to, "parts", PromptParts(file, partSize));
            to.String("data");
            to.Bytes(file, start, Math.Min(partSize, file.Length - start));
        }

        /// <summary>
        /// Write one part of a PNG file of 16-bit grey values: the depth of the newest prompt frame, in
        /// steps of <paramref name="scale"/> metres along the view's axis.
        /// </summary>
        public static void WritePromptDepth(
            MessagePackWriter to,
            byte[] file,
            double scale,
            int part,
            int partSize = PromptPart
        )
        {
            int start = part * partSize;
            Begin(to, "prompt_depth", 5);
            Int(to, "part", part);
            Int(to, "parts", PromptParts(file, partSize));
            Float(to, "scale", scale);
            to.String("data");
            to.Bytes(file, start, Math.Min(partSize, file.Length - start));
        }

        /// <summary>Return how many messages an image file needs.</summary>
        public static int PromptParts(byte[] file, int partSize = PromptPart) =>
            (file.Length + partSize - 1) / partSize;

        /// <summary>Write <c>start</c>; null and -1 stand for absent fields.</summary>
        public static void WriteStart(
            MessagePackWriter to,
            string theme,
            long seed,
            string prompt,
            int promptFrames
        )
        {
            Begin(to, "start", 5);
            Text(to, "theme", theme);
            OptionalInt(to, "seed", seed);
            Text(to, "prompt", prompt);
            OptionalInt(to, "prompt_frames", promptFrames);
        }

        /// <summary>Write <c>input</c> with the sampler's last states, newest first.</summary>
        public static void WriteInput(MessagePackWriter to, InputSampler sampler)
        {
            Begin(to, "input", 2);
            to.String("states");
            to.Array(sampler.Count);
            for (int i = 0; i < sampler.Count; i++) WriteState(to, sampler.State(i));
        }

        /// <summary>Write <c>input</c> with these states, newest first.</summary>
        public static void WriteInput(MessagePackWriter to, ControllerState[] states)
        {
            Begin(to, "input", 2);
            to.String("states");
            to.Array(states.Length);
            foreach (ControllerState state in states) WriteState(to, state);
        }

        /// <summary>Write <c>ping</c>.</summary>
        public static void WritePing(MessagePackWriter to, double time)
        {
            Begin(to, "ping", 2);
            Float(to, "time", time);
        }

        /// <summary>Write <c>frame_shown</c>; NaN stands for absent fields.</summary>
        public static void WriteFrameShown(
            MessagePackWriter to,
            long frame,
            double received,
            double shown,
            double offset,
            double refresh
        )
        {
            Begin(to, "frame_shown", 6);
            Int(to, "frame", frame);
            Float(to, "received", received);
            Float(to, "shown", shown);
            OptionalFloat(to, "offset", offset);
            OptionalFloat(to, "refresh", refresh);
        }

        /// <summary>Write <c>offer</c>.</summary>
        public static void WriteOffer(MessagePackWriter to, string sdp)
        {
            Begin(to, "offer", 2);
            Text(to, "sdp", sdp);
        }

        /// <summary>Write <c>credit</c> for 1 to 8 frames.</summary>
        public static void WriteCredit(MessagePackWriter to, int frames)
        {
            Begin(to, "credit", 2);
            Int(to, "frames", Math.Min(MaxCredit, frames));
        }

        /// <summary>Write <c>observe</c>. Raises <see cref="ArgumentException"/> for sizes that do not fit.</summary>
        public static void WriteObserve(MessagePackWriter to, Observation given)
        {
            int pixels = given.Width * given.Height;
            if (pixels < 1 || pixels > MaxObservedPixels)
                throw new ArgumentException($"1 to {MaxObservedPixels} pixels were expected, got {pixels}");
            if (given.Rgb.Length != 3 * pixels || given.Depth.Length != 2 * pixels)
                throw new ArgumentException(
                    $"{3 * pixels} bytes of color and {2 * pixels} of depth were expected, "
                        + $"got {given.Rgb.Length} and {given.Depth.Length}"
                );
            Begin(to, "observe", 2);
            to.String("observation");
            to.Map(7);
            to.String("camera");
            WritePose(to, given.Camera);
            Int(to, "width", given.Width);
            Int(to, "height", given.Height);
            to.String("rgb");
            to.Bytes(given.Rgb, 0, given.Rgb.Length);
            to.String("depth");
            to.Bytes(given.Depth, 0, given.Depth.Length);
            Float(to, "depth_scale", given.DepthScale);
            to.String("fresh");
            to.Bool(given.Fresh);
        }

        /// <summary>Write <c>bye</c>; with <paramref name="keep"/> the session can be resumed.</summary>
        public static void WriteBye(MessagePackWriter to, bool keep = false)
        {
            Begin(to, "bye", keep ? 2 : 1);
            if (!keep) return;
            to.String("keep");
            to.Bool(true);
        }

        /// <summary>
        /// Write a message without fields: <c>stats</c>, <c>request_control</c> or <c>hand_over</c>.
        /// </summary>
        public static void WriteBare(MessagePackWriter to, string type) => Begin(to, type, 1);

        private static void WriteState(MessagePackWriter to, ControllerState state)
        {
            to.Map(7);
            Int(to, "sequence", state.Sequence);
            Float(to, "time", state.Time);
            to.String("axes");
            to.Array(4);
            for (int i = 0; i < 4; i++) to.Float(state.Axes[i]);
            Int(to, "buttons", state.Buttons);
            to.String("keys");
            to.Array(state.KeyCount);
            for (int i = 0; i < state.KeyCount; i++) to.String(state.Keys[i]);
            to.String("pointer");
            to.Array(2);
            to.Float(state.PointerX);
            to.Float(state.PointerY);
            to.String("camera");
            if (state.HasCamera) WritePose(to, state.Camera);
            else to.Nil();
        }

        private static void WritePose(MessagePackWriter to, in Pose pose)
        {
            to.Map(3);
            to.String("position");
            to.Array(3);
            to.Float(pose.X);
            to.Float(pose.Y);
            to.Float(pose.Z);
            to.String("orientation");
            to.Array(4);
            to.Float(pose.QX);
            to.Float(pose.QY);
            to.Float(pose.QZ);
            to.Float(pose.QW);
            Float(to, "fov_y", pose.FovY);
        }

        private static void Begin(MessagePackWriter to, string type, int keys)
        {
            to.Reset();
            to.Map(keys);
            Text(to, "type", type);
        }

        private static void Text(MessagePackWriter to, string key, string value)
        {
            to.String(key);
            to.String(value);
        }

        private static void Texts(MessagePackWriter to, string key, string[] values)
        {
            to.String(key);
            to.Array(values.Length);
            foreach (string value in values) to.String(value);
        }

        private static void Int(MessagePackWriter to, string key, long value)
        {
            to.String(key);
            to.Int(value);
        }

        private static void Float(MessagePackWriter to, string key, double value)
        {
            to.String(key);
            to.Float(value);
        }

        private static void OptionalInt(MessagePackWriter to, string key, long value)
        {
            to.String(key);
            if (value < 0) to.Nil();
            else to.Int(value);
        }

        private static void OptionalFloat(MessagePackWriter to, string key, double value)
        {
            to.String(key);
            if (double.IsNaN(value)) to.Nil();
            else to.Float(value);
        }
    }
}
