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

        /// <summary>Return pose <paramref name="b"/>, given in the axes of <paramref name="a"/>, in those of a.</summary>
        public static Pose Compose(in Pose a, in Pose b)
        {
            Pose p = Turn(a, b.X, b.Y, b.Z);
            p.X += a.X;
            p.Y += a.Y;
            p.Z += a.Z;
            p.QX = a.QW * b.QX + a.QX * b.QW + a.QY * b.QZ - a.QZ * b.QY;
            p.QY = a.QW * b.QY - a.QX * b.QZ + a.QY * b.QW + a.QZ * b.QX;
            p.QZ = a.QW * b.QZ + a.QX * b.QY - a.QY * b.QX + a.QZ * b.QW;
            p.QW = a.QW * b.QW - a.QX * b.QX - a.QY * b.QY - a.QZ * b.QZ;
            p.FovY = b.FovY;
            return p;
        }

        /// <summary>Return the pose that undoes this one.</summary>
        public static Pose Inverse(in Pose a)
        {
            var turned = new Pose { QX = -a.QX, QY = -a.QY, QZ = -a.QZ, QW = a.QW, FovY = a.FovY };
            Pose p = Turn(turned, -a.X, -a.Y, -a.Z);
            turned.X = p.X;
            turned.Y = p.Y;
            turned.Z = p.Z;
            return turned;
        }

        private static Pose Turn(in Pose q, double x, double y, double z)
        {
            double u = 2 * (q.QY * z - q.QZ * y);
            double v = 2 * (q.QZ * x - q.QX * z);
            double w = 2 * (q.QX * y - q.QY * x);
            return new Pose
            {
                X = x + q.QW * u + q.QY * w - q.QZ * v,
                Y = y + q.QW * v + q.QZ * u - q.QX * w,
                Z = z + q.QW * w + q.QX * v - q.QY * u,
            };
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
