using System.Collections.Generic;
using NUnit.Framework;

namespace WorldBridge.Tests
{
    [TestFixture]
    public sealed class SessionTests
    {
        private readonly Session session = new Session(new Hello());

        private List<SessionCommand> Commands()
        {
            var commands = new List<SessionCommand>();
            while (session.TryCommand(out SessionCommand command)) commands.Add(command);
            return commands;
        }

        private static Welcome Admitted(bool started = false, string resume = "r") =>
            new Welcome
            {
                Resume = resume,
                SeatState = "seated",
                Codec = "jpeg",
                Started = started,
                World = new WorldSpec { Themes = new[] { "city", "zoo" } },
            };

        private void Connect(bool started = false)
        {
            session.Play("zoo", 7, null, 0);
            session.Opened(10);
            session.Received(Admitted(started), 20);
            Commands();
        }

        [Test]
        public void ASessionGoesFromHelloToPlaying()
        {
            session.Play("zoo", 7, null, 0);
            Assert.AreEqual(SessionState.Connecting, session.State);
            Assert.AreEqual(SessionCommand.Connect, Commands()[0]);
            session.Opened(10);
            Assert.AreEqual(SessionCommand.SendHello, Commands()[0]);
            session.Received(Admitted(), 20);
            Assert.AreEqual(SessionState.Loading, session.State);
            Assert.AreEqual(SessionCommand.SendStart, Commands()[0]);
            Assert.AreEqual("zoo", session.Theme);
            session.Received(new Status { State = "playing" }, 30);
            session.FrameShown(40);
            Assert.AreEqual(SessionState.Playing, session.State);
        }

        [Test]
        public void ACodecThatWasNotOfferedEndsTheSession()
        {
            session.Play("zoo", 7, null, 0);
            session.Opened(10);
            Welcome welcome = Admitted();
            welcome.Codec = "h264";
            session.Received(welcome, 20);
            Assert.AreEqual(SessionState.Error, session.State);
            Assert.AreEqual("unsupported", session.Error.Code);
        }

        [Test]
        public void AStartedWorldIsNotRestarted()
        {
            session.Play(null, -1, null, 0);
            session.Opened(10);
            Commands();
            session.Received(Admitted(started: true), 20);
            Assert.AreEqual(0, Commands().Count);
            Assert.IsTrue(session.AcceptsInput);
        }

        [Test]
        public void AnUnknownThemeBecomesTheFirst()
        {
            session.Play("moon", -1, null, 0);
            session.Opened(10);
            session.Received(Admitted(), 20);
            Assert.AreEqual("city", session.Theme);
        }

        [Test]
        public void ReadyAfterTheStartSendsNoSecondOne()
        {
            Connect();
            session.Received(new Status { State = "ready" }, 30);
            Assert.AreEqual(0, Commands().Count);
        }

        [Test]
        public void PingsComeQuicklyThenEveryHalfSecond()
        {
            Connect();
            int pings = 0;
            for (int now = 20; now < 3020; now += 4)
            {
                session.ReceivedOther(now);
                session.Tick(now);
                pings += Commands().FindAll(c => c == SessionCommand.SendPing).Count;
            }
            Assert.AreEqual(11, pings);
        }

        [Test]
        public void ALostConnectionIsResumedWithGrowingPauses()
        {
            Connect(started: true);
            session.Closed("reset", 1000);
            Assert.AreEqual(SessionState.Reconnecting, session.State);
            session.Tick(1200);
            Assert.AreEqual(0, Commands().Count);
            session.Tick(1250);
            Assert.AreEqual(SessionCommand.Connect, Commands()[0]);
            session.Closed("refused", 1260);
            session.Tick(1700);
            Assert.AreEqual(0, Commands().Count);
            session.Tick(1760);
            Assert.AreEqual(SessionCommand.Connect, Commands()[0]);
            session.Opened(1770);
            Assert.AreEqual("r", session.Hello.Resume);
        }

        [Test]
        public void ASilentServerIsDropped()
        {
            Connect();
            for (int now = 20; now <= 4040; now += 20) session.Tick(now);
            Assert.IsTrue(Commands().Contains(SessionCommand.Disconnect));
            Assert.AreEqual(SessionState.Reconnecting, session.State);
        }

        [Test]
        public void AServerThatNeverAnswersIsGivenUp()
        {
            session.Play(null, -1, null, 0);
            for (int now = 0; now < 30000 && session.State != SessionState.Error; now += 50)
            {
                session.Tick(now);
                if (Commands().Contains(SessionCommand.Connect)) session.Closed("refused", now);
            }
            Assert.AreEqual("unreachable", session.Error.Code);
        }

        [Test]
        public void AFullServerIsAskedAgain()
        {
            session.Play(null, -1, null, 0);
            session.Opened(10);
            Commands();
            session.Received(new ProtocolError("no_free_seat", "full"), 20);
            Assert.AreEqual(SessionState.Full, session.State);
            Assert.AreEqual(SessionCommand.Disconnect, Commands()[0]);
            session.Tick(5020);
            Assert.AreEqual(SessionCommand.Connect, Commands()[0]);
        }

        [Test]
        public void AnExpiredResumeTokenIsDropped()
        {
            Connect(started: true);
            session.Closed("reset", 1000);
            session.Tick(1300);
            session.Opened(1310);
            session.Received(new ProtocolError("session_expired", "gone"), 1320);
            Assert.AreEqual(null, session.Hello.Resume);
            Assert.IsTrue(Commands().Contains(SessionCommand.Connect));
        }

        [Test]
        public void ASessionThatAnotherClientTookEnds()
        {
            Connect(started: true);
            session.Tick(100);
            session.Received(new ProtocolError("session_expired", "taken"), 200);
            Assert.AreEqual(SessionState.Error, session.State);
        }

        [Test]
        public void PromptFramesGoBeforeTheStart()
        {
            session.Play("zoo", 1, new[] { new byte[] { 1 } }, 0);
            session.Opened(10);
            Commands();
            session.Received(Admitted(), 20);
            List<SessionCommand> commands = Commands();
            Assert.AreEqual(SessionCommand.SendPromptFrames, commands[0]);
            Assert.AreEqual(SessionCommand.SendStart, commands[1]);
            session.FrameShown(400); // of the world before
            Assert.AreEqual(SessionState.Loading, session.State);
            session.Received(new Status { State = "playing" }, 500);
            session.FrameShown(800);
            Assert.AreEqual(SessionState.Playing, session.State);
        }

        [Test]
        public void ARejectedRestartKeepsTheWorld()
        {
            Connect();
            session.Received(new Status { State = "playing" }, 30);
            session.FrameShown(40);
            session.Restart("city", 9, null, 1000);
            session.Received(new ProtocolError("unknown_theme", "no", fatal: false), 1010);
            Assert.AreEqual("zoo", session.Theme);
            Assert.AreEqual(7L, session.Seed);
            session.FrameShown(1020);
            Assert.AreEqual(SessionState.Playing, session.State);
        }

        [Test]
        public void ARejectedFirstStartEndsTheSession()
        {
            Connect();
            session.Received(new ProtocolError("bad_prompt_frame", "no", fatal: false), 30);
            Assert.AreEqual(SessionState.Error, session.State);
            Assert.IsTrue(Commands().Contains(SessionCommand.SendBye));
        }

        [Test]
        public void ALostWorldReconnectsAndPlaysAgain()
        {
            Connect(started: true);
            session.ReceivedEvent("world_lost", "", 1000);
            Assert.AreEqual(SessionState.Reconnecting, session.State);
            session.Received(new Status { State = "playing" }, 2000);
            session.FrameShown(2010);
            Assert.AreEqual(SessionState.Playing, session.State);
        }

        [Test]
        public void LeavingSaysByeAndForgetsTheToken()
        {
            Connect();
            session.Leave(30);
            Assert.AreEqual(SessionCommand.SendBye, Commands()[0]);
            Assert.AreEqual(null, session.Hello.Resume);
            Assert.AreEqual(SessionState.Idle, session.State);
        }
    }
}
