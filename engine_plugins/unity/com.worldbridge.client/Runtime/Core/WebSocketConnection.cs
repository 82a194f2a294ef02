using System;
using System.IO;
using System.Security.Cryptography;
using System.Text;

namespace WorldBridge
{
    /// <summary>A WebSocket (RFC 6455). Answers pings.</summary>
    public sealed class WebSocketConnection : Connection
    {
        private const int Binary = 2;
        private const int CloseFrame = 8;
        private const int Ping = 9;
        private const int Pong = 10;
        private const int MaxHead = 16384;

        private readonly byte[] control = new byte[125];
        private readonly byte[] mask = new byte[4];
        private Random random;
        private byte[] outgoing = new byte[4096];

        /// <inheritdoc/>
        protected override void ReceiveMessage(Action progress)
        {
            int length = 0;
            bool inside = false;
            while (true)
            {
                Fill(2);
                int first = Next();
                int second = Next();
                int opcode = first & 0x0f;
                bool last = (first & 0x80) != 0;
                if ((first & 0x70) != 0) throw new IOException("reserved bits are set");
                if ((second & 0x80) != 0) throw new IOException("the server masked a frame");
                int count = second < 126 ? second : NextLength(second == 126 ? 2 : 8);
                progress?.Invoke();
                if (opcode >= CloseFrame)
                {
                    if (!last || count > control.Length)
                        throw new IOException("a control frame is too long");
                    TakeControl(opcode, count);
                    continue;
                }
                if (opcode != (inside ? 0 : Binary))
                    throw new IOException($"an unexpected frame with opcode {opcode}");
                Append(length, count, progress);
                length += count;
                inside = true;
                if (!last) continue;
                EndPart(length);
                return;
            }
        }

        /// <inheritdoc/>
        public override void Send(byte[] data, int count) => Send(Binary, data, count);

        private void Send(int opcode, byte[] data, int count)
        {
            lock (WriteGate)
            {
                if (outgoing.Length < count + 14) outgoing = new byte[2 * count + 14];
                int at = 0;
                outgoing[at++] = (byte)(0x80 | opcode);
                if (count < 126) outgoing[at++] = (byte)(0x80 | count);
                else
                {
                    int width = count < 65536 ? 2 : 8;
                    outgoing[at++] = (byte)(0x80 | (width == 2 ? 126 : 127));
                    for (int shift = 8 * (width - 1); shift >= 0; shift -= 8)
                        outgoing[at++] = (byte)((long)count >> shift);
                }
                random.NextBytes(mask);
                for (int i = 0; i < 4; i++) outgoing[at++] = mask[i];
                for (int i = 0; i < count; i++) outgoing[at++] = (byte)(data[i] ^ mask[i & 3]);
                Write(outgoing, at);
            }
        }

        private void TakeControl(int opcode, int count)
        {
            ReadInto(control, 0, count, null);
            if (opcode == Ping) Send(Pong, control, count);
            if (opcode != CloseFrame) return;
            if (count < 2) throw new IOException("the server closed the connection");
            string reason = Encoding.UTF8.GetString(control, 2, count - 2);
            int code = control[0] << 8 | control[1];
            throw new IOException($"the server closed the connection: {code} {reason}");
        }

        /// <inheritdoc/>
        protected override void Shake(Uri address)
        {
            byte[] bytes = new byte[16];
            using (var source = RandomNumberGenerator.Create()) source.GetBytes(bytes);
            random = new Random(BitConverter.ToInt32(bytes, 0));
            string key = Convert.ToBase64String(bytes);
            byte[] request = Encoding.ASCII.GetBytes(
                $"GET {address.PathAndQuery} HTTP/1.1\r\nHost: {address.Authority}\r\n"
                    + "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                    + $"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            );
            Write(request, request.Length);
            string[] lines = ReadHead().Split(new[] { "\r\n" }, StringSplitOptions.None);
            string[] status = lines[0].Split(' ');
            if (status.Length < 2 || status[1] != "101")
                throw new IOException($"the server answered {lines[0]}");
            byte[] hashed;
            using (var sha = SHA1.Create())
                hashed = sha.ComputeHash(
                    Encoding.ASCII.GetBytes(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
                );
            string expected = Convert.ToBase64String(hashed);
            foreach (string line in lines)
            {
                int colon = line.IndexOf(':');
                if (colon < 0) continue;
                string name = line.Substring(0, colon).Trim().ToLowerInvariant();
                if (name == "sec-websocket-accept" && line.Substring(colon + 1).Trim() == expected)
                    return;
            }
            throw new IOException("the server's Sec-WebSocket-Accept is wrong");
        }

        private string ReadHead()
        {
            var head = new StringBuilder();
            while (head.Length < MaxHead)
            {
                Fill(1);
                head.Append((char)Next());
                int n = head.Length;
                if (
                    n >= 4
                    && head[n - 1] == '\n'
                    && head[n - 2] == '\r'
                    && head[n - 3] == '\n'
                    && head[n - 4] == '\r'
                )
                    return head.ToString(0, n - 4);
            }
            throw new IOException("the server's answer is too long");
        }
    }
}
