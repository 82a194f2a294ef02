using System;
using System.Collections.Generic;

namespace WorldBridge
{
    /// <summary>
    /// Turn a player's devices into a sequence of controller states. It reads no clock: the caller
    /// passes client time in ms, and samples when <see cref="Due"/> says so.
    /// </summary>
    public sealed class InputSampler
    {
        /// <summary>Most keys held at once.</summary>
        public const int MaxKeys = 16;

        /// <summary>Interval in ms while nothing changes.</summary>
        public const double SampleMs = 1000.0 / 60;

        private const double MinGapMs = 6;
        private const int StatesPerInput = 4;

        private readonly ControllerState[] history = new ControllerState[StatesPerInput];
        private readonly List<string> keys = new List<string>(MaxKeys);
        private readonly double[] axes = new double[4];
        private int buttons;
        private double pointerX;
        private double pointerY;
        private Pose camera;
        private bool hasCamera;
        private long sequence;
        private int newest = StatesPerInput - 1;
        private double last = double.NegativeInfinity;
        private double next = double.NegativeInfinity;
        private bool changed;

        /// <summary>Create a sampler with neutral devices.</summary>
        public InputSampler()
        {
            for (int i = 0; i < StatesPerInput; i++) history[i] = new ControllerState();
        }

        /// <summary>Get how many states the next <c>input</c> carries.</summary>
        public int Count { get; private set; }

        /// <summary>Return a sampled state; 0 is the newest.</summary>
        public ControllerState State(int age) =>
            history[(newest - age + StatesPerInput) % StatesPerInput];

        /// <summary>Set whether a key (<c>KeyboardEvent.code</c>) is held.</summary>
        public void SetKey(string code, bool held)
        {
            int index = keys.IndexOf(code);
            if (held && index < 0 && keys.Count < MaxKeys) keys.Add(code);
            else if (!held && index >= 0) keys.RemoveAt(index);
            else return;
            changed = true;
        }

        /// <summary>
        /// Set sticks and buttons in the W3C order. Y is +1 where the stick points down: negate
        /// Unity's. Values are clamped to -1..1; NaN counts as 0.
        /// </summary>
        public void SetPad(double leftX, double leftY, double rightX, double rightY, int buttonBits)
        {
            SetAxis(0, leftX);
            SetAxis(1, leftY);
            SetAxis(2, rightX);
            SetAxis(3, rightY);
            if (buttons == (buttonBits & 0x1ffff)) return;
            buttons = buttonBits & 0x1ffff;
            changed = true;
        }

        /// <summary>Add pointer movement in pixels; +x right, +y down.</summary>
        public void MovePointer(double dx, double dy)
        {
            if (!(Math.Abs(dx) + Math.Abs(dy) > 0)) return;
            pointerX += dx;
            pointerY += dy;
            changed = true;
        }

        /// <summary>Set the camera of a client that moves it itself, in the protocol's coordinates.</summary>
        public void SetCamera(Pose pose)
        {
            camera = pose;
            hasCamera = true;
        }

        /// <summary>Release keys, sticks and buttons. The pointer's totals stay.</summary>
        public void ReleaseAll()
        {
            keys.Clear();
            SetPad(0, 0, 0, 0, 0);
            changed = true;
        }

        /// <summary>Return whether a state is due: soon after a change, at 60 Hz otherwise.</summary>
        public bool Due(double now)
        {
            bool regular = now >= next;
            if (!regular && !(changed && now - last >= MinGapMs)) return false;
            // Counting from when it was due keeps 60 Hz on average with a coarse timer.
            bool late = regular && now - next < SampleMs;
            next = (late ? next : now) + SampleMs;
            last = now;
            changed = false;
            return true;
        }

        /// <summary>Take the next state. It replaces the oldest of four.</summary>
        public ControllerState Sample(double now)
        {
            newest = (newest + 1) % StatesPerInput;
            if (Count < StatesPerInput) Count++;
            ControllerState state = history[newest];
            state.Sequence = sequence++;
            state.Time = now;
            for (int i = 0; i < 4; i++) state.Axes[i] = axes[i];
            state.Buttons = buttons;
            state.KeyCount = keys.Count;
            keys.CopyTo(state.Keys);
            state.PointerX = pointerX;
            state.PointerY = pointerY;
            state.HasCamera = hasCamera;
            state.Camera = camera;
            return state;
        }

        private void SetAxis(int index, double value)
        {
            if (double.IsNaN(value)) value = 0;
            value = Math.Max(-1, Math.Min(1, value));
            if (axes[index] == value) return;
            axes[index] = value;
            changed = true;
        }
    }
}
