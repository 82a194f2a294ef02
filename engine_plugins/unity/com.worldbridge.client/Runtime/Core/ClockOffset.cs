namespace WorldBridge
{
    /// <summary>
    /// Estimate client time minus server time from pings, by the shortest of the last 30 round
    /// trips: queueing only adds time, so the shortest is the most symmetric. The error is at most
    /// half of it.
    /// </summary>
    public sealed class ClockOffset
    {
        private const int Window = 30;
        private readonly double[] roundTrips = new double[Window];
        private readonly double[] offsets = new double[Window];
        private int count;
        private int next;

        /// <summary>Get the latest round trip in ms; NaN before the first pong.</summary>
        public double RoundTrip { get; private set; } = double.NaN;

        /// <summary>Get client time minus server time in ms; NaN before the first pong.</summary>
        public double Offset => count == 0 ? double.NaN : offsets[Best()];

        /// <summary>Get the shortest round trip in ms; NaN before the first pong.</summary>
        public double ShortestRoundTrip => count == 0 ? double.NaN : roundTrips[Best()];

        /// <summary>Take a pong: client times of sending and receipt, and the server's time, in ms.</summary>
        public void Pong(double sent, double received, double serverTime)
        {
            double roundTrip = received - sent;
            if (!(roundTrip >= 0)) return;
            RoundTrip = roundTrip;
            roundTrips[next] = roundTrip;
            offsets[next] = (sent + received) / 2 - serverTime;
            next = (next + 1) % Window;
            if (count < Window) count++;
        }

        /// <summary>Forget everything, as after a new connection.</summary>
        public void Reset()
        {
            count = 0;
            next = 0;
            RoundTrip = double.NaN;
        }

        private int Best()
        {
            int best = 0;
            for (int i = 1; i < count; i++)
                if (roundTrips[i] < roundTrips[best])
                    best = i;
            return best;
        }
    }
}
