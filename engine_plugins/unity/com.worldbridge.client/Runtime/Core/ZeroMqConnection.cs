using System;
using System.IO;
using System.Text;

namespace WorldBridge
{
    /// <summary>
    /// A ZeroMQ DEALER without a native library: ZMTP 3.1 with the mechanism NULL (rfc.zeromq.org/spec/23).
    /// Keys (CURVE) are not supported: between machines, use a WebSocket with TLS.
    /// </summary>
    public sealed class ZeroMqConnection : Connection
    {
        private const int More = 1;
        private const int Long = 2;
        private const int Command = 4;
        private const int GreetingBytes = 64;

        private readonly byte[] body = new byte[512];
        private byte[] outgoing = new byte[4096];

        /// <inheritdoc/>
        public override void Send(byte[] data, int count) => Send(0, data, 0, count);

        /// <inheritdoc/>
        protected override void Shake(Uri address)
        {
            var greeting = new byte[GreetingBytes];
            greeting[0] = 0xff;
            greeting[8] = 1;
            greeting[9] = 0x7f;
            greeting[10] = 3;
            greeting[11] = 1;
            Encoding.ASCII.GetBytes("NULL", 0, 4, greeting, 12);
            Write(greeting, GreetingBytes);
            Fill(11); // more does not come from what is no ZeroMQ
            ReadInto(greeting, 0, 11, null);
            if (greeting[0] != 0xff || greeting[9] != 0x7f || greeting[10] < 3)
                throw new IOException("the server does not speak ZeroMQ (ZMTP 3)");
            ReadInto(greeting, 11, GreetingBytes - 11, null);
            string mechanism = Encoding.ASCII.GetString(greeting, 12, 20).TrimEnd('\0');
            if (mechanism != "NULL") throw NeedsKeys(mechanism);
            byte[] ready = Encoding.ASCII.GetBytes("\u0005READY\u000bSocket-Type\0\0\0\u0006DEALER");
            Send(Command, ready, 0, ready.Length);
            while (true)
            {
                if ((ReadHead(out int count) & Command) == 0)
                    throw new IOException("a message came before the handshake ended");
                if (TakeCommand(count)) return;
            }
        }

        /// <inheritdoc/>
        protected override void ReceiveMessage(Action progress)
        {
            int used = 0;
            while (true)
            {
                int flags = ReadHead(out int count);
                progress?.Invoke();
                if ((flags & Command) != 0)
                {
                    TakeCommand(count);
                    continue;
                }
                Append(used, count, progress);
                EndPart(count);
                used += count;
                if ((flags & More) == 0) return;
            }
        }

        private static ProtocolError NeedsKeys(string mechanism) =>
            new ProtocolError(
                "unauthorized",
                "The server asks for keys, which this client does not have",
                "a server without keys (NULL)",
                mechanism,
                "Connect by WebSocket with TLS (wss), or start the server without --zmq-keys."
            );

        private int ReadHead(out int count)
        {
            Fill(2);
            int flags = Next();
            if ((flags & ~(More | Long | Command)) != 0 || (flags & (More | Command)) == (More | Command))
                throw new IOException($"a frame has the flags {flags}");
            count = NextLength((flags & Long) == 0 ? 1 : 8);
            return flags;
        }

        /// <summary>Take a command, answer a PING, and return whether it is READY.</summary>
        private bool TakeCommand(int count)
        {
            if (count < 1 || count > body.Length) throw new IOException($"a command of {count} bytes");
            ReadInto(body, 0, count, null);
            if (Is("ERROR", count))
                throw new IOException(
                    "the server refused: " + Encoding.ASCII.GetString(body, 6, count - 6)
                );
            // PING has two bytes of time to live, then a context that comes back.
            if (Is("PING", count) && count >= 7)
            {
                body[2] = 4;
                Encoding.ASCII.GetBytes("PONG", 0, 4, body, 3);
                Send(Command, body, 2, count - 2);
            }
            return Is("READY", count);
        }

        private bool Is(string name, int count)
        {
            if (count <= name.Length || body[0] != name.Length) return false;
            for (int i = 0; i < name.Length; i++)
                if (body[i + 1] != name[i])
                    return false;
            return true;
        }

        private void Send(int flags, byte[] data, int offset, int count)
        {
            lock (WriteGate)
            {
                if (outgoing.Length < count + 9) outgoing = new byte[2 * count + 9];
                int width = count < 256 ? 1 : 8;
                int at = 0;
                outgoing[at++] = (byte)(flags | (width == 1 ? 0 : Long));
                for (int shift = 8 * (width - 1); shift >= 0; shift -= 8)
                    outgoing[at++] = (byte)((long)count >> shift);
                Buffer.BlockCopy(data, offset, outgoing, at, count);
                Write(outgoing, at + count);
            }
        }
    }
}
