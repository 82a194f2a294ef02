namespace WorldBridge
{
    /// <summary>
    /// Hand frames from the network's thread to the engine's. Only the newest waits; three frames
    /// are used in turn, so neither side waits for the other and nothing is allocated.
    /// </summary>
    public sealed class LatestFrame
    {
        private readonly object gate = new object();
        private Frame writing = new Frame();
        private Frame waiting = new Frame();
        private Frame reading = new Frame();
        private bool fresh;

        /// <summary>Get how many frames were replaced before they were taken.</summary>
        public long Replaced { get; private set; }

        /// <summary>Get the frame to fill; only the writing thread may touch it.</summary>
        public Frame Next => writing;

        /// <summary>Offer the filled frame.</summary>
        public void Publish()
        {
            lock (gate)
            {
                Frame filled = writing;
                writing = waiting;
                waiting = filled;
                if (fresh) Replaced++;
                fresh = true;
            }
        }

        /// <summary>
        /// Take the newest frame, or return false where none arrived since. The frame is valid until
        /// the next call.
        /// </summary>
        public bool TryTake(out Frame frame)
        {
            lock (gate)
            {
                if (fresh)
                {
                    Frame taken = waiting;
                    waiting = reading;
                    reading = taken;
                }
                frame = fresh ? reading : null;
                fresh = false;
                return frame != null;
            }
        }

        /// <summary>Forget a frame that waits, as after a restart.</summary>
        public void Clear()
        {
            lock (gate) fresh = false;
        }
    }
}
