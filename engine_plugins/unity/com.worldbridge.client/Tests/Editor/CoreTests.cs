using System.Text;
using NUnit.Framework;

namespace WorldBridge.Tests
{
    [TestFixture]
    public sealed class LatestFrameTests
    {
        [Test]
        public void OnlyTheNewestFrameIsTaken()
        {
            var frames = new LatestFrame();
            Assert.IsFalse(frames.TryTake(out _));
            for (int i = 1; i <= 3; i++)
            {
                frames.Next.Header.Frame = i;
                frames.Publish();
            }
            Assert.IsTrue(frames.TryTake(out Frame frame));
            Assert.AreEqual(3L, frame.Header.Frame);
            Assert.AreEqual(2L, frames.Replaced);
            Assert.IsFalse(frames.TryTake(out _));
        }

        [Test]
        public void ATakenFrameIsNotWrittenTo()
        {
            var frames = new LatestFrame();
            frames.Next.Header.Frame = 1;
            frames.Publish();
            frames.TryTake(out Frame taken);
            for (int i = 2; i < 6; i++)
            {
                Assert.IsFalse(ReferenceEquals(taken, frames.Next));
                frames.Next.Header.Frame = i;
                frames.Publish();
            }
            Assert.AreEqual(1L, taken.Header.Frame);
        }
    }

    [TestFixture]
    public sealed class WorldOriginTests
    {
        private static void AreEqual(Pose a, Pose b)
        {
            Assert.AreEqual(a.X, b.X, 1e-12);
            Assert.AreEqual(a.Y, b.Y, 1e-12);
            Assert.AreEqual(a.Z, b.Z, 1e-12);
            Assert.AreEqual(a.QX, b.QX, 1e-12);
            Assert.AreEqual(a.QY, b.QY, 1e-12);
            Assert.AreEqual(a.QZ, b.QZ, 1e-12);
            Assert.AreEqual(a.QW, b.QW, 1e-12);
        }

        [Test]
        public void AFrameThatAnswersACameraIsSeenFromIt()
        {
            var origin = new WorldOrigin();
            var sent = new Pose { X = 3, Y = 1, Z = -4, QX = 0.36, QY = 0.48, QZ = 0.64, QW = 0.48 };
            var header = new FrameHeader
            {
                InputSequence = 300,
                Camera = new Pose { Y = 1.6, QY = 0.6, QW = 0.8, FovY = 50 },
            };
            AreEqual(header.Camera, origin.ToScene(header)); // nothing was sent yet
            origin.Sent(300, sent);
            AreEqual(sent, origin.ToScene(header));
            // A step ahead in the world is a step ahead of that camera in the scene.
            header.InputSequence = 900;
            Pose ahead = new Pose { Z = -1, QW = 1 };
            header.Camera = Coordinates.Compose(header.Camera, ahead);
            AreEqual(Coordinates.Compose(sent, ahead), origin.ToScene(header));
        }

        [Test]
        public void AnInverseUndoesAPose()
        {
            var pose = new Pose { X = 3, Y = 1, Z = -4, QX = 0.36, QY = 0.48, QZ = 0.64, QW = 0.48 };
            AreEqual(Pose.Identity, Coordinates.Compose(pose, Coordinates.Inverse(pose)));
            // A quarter turn to the left: ahead (-Z) becomes left (-X).
            double half = System.Math.Sqrt(0.5);
            var left = new Pose { QY = half, QW = half };
            AreEqual(
                new Pose { X = -1, QY = half, QW = half },
                Coordinates.Compose(left, new Pose { Z = -1, QW = 1 })
            );
        }
    }

    [TestFixture]
    public sealed class InputSamplerTests
    {
        [Test]
        public void FourStatesAreKeptNewestFirst()
        {
            var sampler = new InputSampler();
            for (int i = 0; i < 6; i++)
            {
                sampler.SetPad(0.1 * i, 0, 0, 0, 0);
                sampler.Sample(10 * i);
            }
            Assert.AreEqual(4, sampler.Count);
            Assert.AreEqual(5L, sampler.State(0).Sequence);
            Assert.AreEqual(2L, sampler.State(3).Sequence);
            Assert.AreEqual(0.2, sampler.State(3).Axes[0], 1e-12);
        }

        [Test]
        public void AChangeIsDueSoonerThanTheNextRegularState()
        {
            var sampler = new InputSampler();
            Assert.IsTrue(sampler.Due(0));
            Assert.IsFalse(sampler.Due(10));
            sampler.SetKey("KeyW", true);
            Assert.IsTrue(sampler.Due(10));
            sampler.SetKey("KeyA", true);
            Assert.IsFalse(sampler.Due(12));
            Assert.IsTrue(sampler.Due(16));
        }

        [Test]
        public void ValuesOutOfRangeAreClampedAndNaNIsNeutral()
        {
            var sampler = new InputSampler();
            sampler.SetPad(3, -7, double.NaN, 0, -1);
            ControllerState state = sampler.Sample(0);
            Assert.AreEqual(1.0, state.Axes[0], 0);
            Assert.AreEqual(-1.0, state.Axes[1], 0);
            Assert.AreEqual(0.0, state.Axes[2], 0);
            Assert.AreEqual(131071, state.Buttons);
        }

        [Test]
        public void ReleaseAllKeepsThePointersTotals()
        {
            var sampler = new InputSampler();
            sampler.MovePointer(3, -4);
            sampler.SetKey("KeyW", true);
            sampler.ReleaseAll();
            sampler.MovePointer(1, 1);
            ControllerState state = sampler.Sample(0);
            Assert.AreEqual(0, state.KeyCount);
            Assert.AreEqual(4.0, state.PointerX, 0);
            Assert.AreEqual(-3.0, state.PointerY, 0);
        }

        [Test]
        public void AtMostSixteenKeysAreHeld()
        {
            var sampler = new InputSampler();
            for (int i = 0; i < 20; i++) sampler.SetKey("Key" + i, true);
            Assert.AreEqual(InputSampler.MaxKeys, sampler.Sample(0).KeyCount);
        }
    }

    [TestFixture]
    public sealed class ClockOffsetTests
    {
        [Test]
        public void TheShortestRoundTripCounts()
        {
            var clock = new ClockOffset();
            Assert.IsTrue(double.IsNaN(clock.Offset));
            clock.Pong(0, 100, 1000);
            clock.Pong(200, 210, 1155);
            clock.Pong(300, 380, 1290);
            Assert.AreEqual(-950, clock.Offset, 1e-9);
            Assert.AreEqual(80, clock.RoundTrip, 1e-9);
            Assert.AreEqual(10, clock.ShortestRoundTrip, 1e-9);
        }

        [Test]
        public void ThirtyPongsLaterTheShortestIsForgotten()
        {
            var clock = new ClockOffset();
            clock.Pong(0, 1, 0);
            for (int i = 0; i < 30; i++) clock.Pong(0, 20, 0);
            Assert.AreEqual(20, clock.ShortestRoundTrip, 0);
        }
    }

    [TestFixture]
    public sealed class MessagePackTests
    {
        [Test]
        public void IntegersComeBack()
        {
            var writer = new MessagePackWriter();
            var reader = new MessagePackReader();
            long[] values =
            {
                0, 127, 128, 255, 256, 65535, 65536, 4294967295, 4294967296, 9007199254740991,
                -1, -32, -33, -128, -129, -32768, -32769, -2147483648, -2147483649,
            };
            foreach (long value in values)
            {
                writer.Reset();
                writer.Int(value);
                reader.Reset(writer.Buffer, 0, writer.Length);
                Assert.AreEqual(value, reader.Int("", long.MinValue));
            }
        }

        [Test]
        public void ALengthBeyondTheMessageIsRefused()
        {
            var reader = new MessagePackReader();
            reader.Reset(new byte[] { 0xdb, 0xff, 0xff, 0xff, 0xff, 0x61 }, 0, 6);
            Assert.Throws<ProtocolError>(() => reader.Text(""));
        }

        [Test]
        public void NonFiniteFloatsAreNotWritten()
        {
            var writer = new MessagePackWriter();
            Assert.Throws<System.ArgumentException>(() => writer.Float(double.NaN));
        }

        [Test]
        public void StringsAreCountedInCharacters()
        {
            byte[] data = Encoding.UTF8.GetBytes("_\U0001F600\u00e9");
            data[0] = (byte)(0xa0 | (data.Length - 1));
            var reader = new MessagePackReader();
            reader.Reset(data, 0, data.Length);
            Assert.AreEqual("\U0001F600\u00e9", reader.String("", 2));
        }
    }

    [TestFixture]
    public sealed class AddressTests
    {
        [Test]
        public void AddressesLeadToTheSession()
        {
            Assert.AreEqual("ws://a:8000/session", WorldClient.SessionAddress("http://a:8000").ToString());
            Assert.AreEqual("wss://a/x/session", WorldClient.SessionAddress("https://a/x/").ToString());
            Assert.AreEqual("ws://a/session", WorldClient.SessionAddress("ws://a/session").ToString());
            Assert.Throws<System.ArgumentException>(() => WorldClient.SessionAddress("ftp://a"));
        }
    }
}
