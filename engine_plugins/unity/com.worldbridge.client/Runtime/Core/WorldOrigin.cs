namespace WorldBridge
{
    /// <summary>
    /// Relate a world's coordinates to a scene's. A world takes the first camera that is sent as the
    /// place where its player stands; the camera that a frame answers says where that is in the scene.
    /// </summary>
    public sealed class WorldOrigin
    {
        private const int Remembered = 256;
        private readonly long[] sequences = new long[Remembered];
        private readonly Pose[] cameras = new Pose[Remembered];
        private Pose toScene = Pose.Identity;

        /// <summary>Create the origin of a world whose coordinates are the scene's.</summary>
        public WorldOrigin()
        {
            for (int i = 0; i < Remembered; i++) sequences[i] = -1;
        }

        /// <summary>Remember the scene's camera of a controller state.</summary>
        public void Sent(long sequence, in Pose camera)
        {
            sequences[sequence % Remembered] = sequence;
            cameras[sequence % Remembered] = camera;
        }

        /// <summary>Return where a frame is seen from in the scene, in the protocol's axes.</summary>
        public Pose ToScene(in FrameHeader header)
        {
            long answered = header.InputSequence;
            if (answered >= 0 && sequences[answered % Remembered] == answered)
                toScene = Coordinates.Compose(
                    cameras[answered % Remembered],
                    Coordinates.Inverse(header.Camera)
                );
            return Coordinates.Compose(toScene, header.Camera);
        }
    }
}
