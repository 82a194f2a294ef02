namespace WorldBridge
{
    /// <summary>A camera of the protocol: right-handed, +Y up, -Z forward, metres.</summary>
    public struct Pose
    {
        /// <summary>Position in metres.</summary>
        public double X, Y, Z;

        /// <summary>Unit quaternion that turns the camera's axes into the world's.</summary>
        public double QX, QY, QZ, QW;

        /// <summary>Vertical field of view in degrees, 1 to 179.</summary>
        public double FovY;

        /// <summary>Get the camera at the origin.</summary>
        public static Pose Identity => new Pose { QW = 1, FovY = 50 };
    }

    /// <summary>
    /// Convert between the protocol's coordinates and Unity's: left-handed, +Y up, +Z forward, metres.
    /// Only Z changes its sign, so each conversion is its own inverse.
    /// </summary>
    public static class Coordinates
    {
        /// <summary>Convert a pose of Unity into one of the protocol, or back.</summary>
        public static Pose Flip(Pose pose)
        {
            pose.Z = -pose.Z;
            pose.QX = -pose.QX;
            pose.QY = -pose.QY;
            return pose;
        }

        /// <summary>
        /// Write the 4x4 matrix, row by row, from the camera's axes to the world's.
        /// </summary>
        public static void Matrix(in Pose p, double[] rows)
        {
            rows[0] = 1 - 2 * (p.QY * p.QY + p.QZ * p.QZ);
            rows[1] = 2 * (p.QX * p.QY - p.QZ * p.QW);
            rows[2] = 2 * (p.QX * p.QZ + p.QY * p.QW);
            rows[3] = p.X;
            rows[4] = 2 * (p.QX * p.QY + p.QZ * p.QW);
            rows[5] = 1 - 2 * (p.QX * p.QX + p.QZ * p.QZ);
            rows[6] = 2 * (p.QY * p.QZ - p.QX * p.QW);
            rows[7] = p.Y;
            rows[8] = 2 * (p.QX * p.QZ - p.QY * p.QW);
            rows[9] = 2 * (p.QY * p.QZ + p.QX * p.QW);
            rows[10] = 1 - 2 * (p.QX * p.QX + p.QY * p.QY);
            rows[11] = p.Z;
            rows[12] = 0;
            rows[13] = 0;
            rows[14] = 0;
            rows[15] = 1;
        }
    }
}
