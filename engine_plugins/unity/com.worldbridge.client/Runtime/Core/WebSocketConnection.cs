using System;
using System.IO;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace WorldBridge
{
    /// <summary>
    /// A WebSocket client (RFC 6455) with blocking calls and buffers that are used again. One thread
    /// may read while others write. <see cref="Close"/> ends a read that waits.
    /// </summary>
    public sealed class WebSocketConnection
    {
        private const int Binary = 2;
        private const int CloseFrame = 8;
        private const int Ping = 9;
        private const int Pong = 10;
        private const int MaxHead = 16384;

        private readonly object writeGate = new object();
        private readonly byte[] control = new byte[125];
        private readonly byte[] mask = new byte[4];
        private readonly Random random;
        private readonly TcpClient tcp;
        private readonly Stream stream;
        private byte[] outgoing = new byte[4096];
        private byte[] incoming = new byte[65536];
        private int incomingStart;
        private int incomingEnd;

        /// <summary>Get the buffer of the last message.</summary>
        public byte[] Message { get; private set; } = new byte[65536];

        /// <summary>
        /// Connect, within <paramref name="timeoutMs"/>. Raises <see cref="IOException"/>, also for a
        /// server that refuses.
        /// </summary>
        public WebSocketConnection(Uri address, int timeoutMs)
        {
            byte[] key = new byte[16];
            using (var source = RandomNumberGenerator.Create()) source.GetBytes(key);
            random = new Random(BitConverter.ToInt32(key, 0));
            tcp = new TcpClient { NoDelay = true };
            try
            {
                if (!tcp.ConnectAsync(address.DnsSafeHost, address.Port).Wait(timeoutMs))
                    throw new IOException($"no connection within {timeoutMs} ms");
                tcp.ReceiveTimeout = timeoutMs;
                tcp.SendTimeout = timeoutMs;
                stream = tcp.GetStream();
                if (address.Scheme == "wss")
                {
                    var secure = new SslStream(stream);
                    secure.AuthenticateAsClient(address.DnsSafeHost);
                    stream = secure;
                }
                Shake(address, Convert.ToBase64String(key));
                tcp.ReceiveTimeout = 0; // the session watches for silence
            }
            catch (AggregateException error)
            {
                tcp.Close();
                throw new IOException(error.InnerException.Message, error.InnerException);
            }
            catch
            {
                tcp.Close();
                throw;
            }
        }

        /// <summary>
        /// Wait for a binary message and return its length. Raises <see cref="IOException"/> when the
        /// connection ends, with the server's reason if it gave one, and for anything that breaks
        /// RFC 6455. Answers pings.
        /// </summary>
        public int Receive(Action progress)
        {
            int length = 0;
            bool inside = false;
            while (true)
            {
                Fill(2);
                int first = incoming[incomingStart++];
                int second = incoming[incomingStart++];
                int opcode = first & 0x0f;
                bool last = (first & 0x80) != 0;
                if ((first & 0x70) != 0) throw new IOException("reserved bits are set");
                if ((second & 0x80) != 0) throw new IOException("the server masked a frame");
                long count = ReadLength(second & 0x7f);
                progress?.Invoke();
                if (opcode >= CloseFrame)
                {
                    if (!last || count > control.Length)
                        throw new IOException("a control frame is too long");
                    TakeControl(opcode, (int)count);
                    continue;
                }
                if (opcode != (inside ? 0 : Binary))
                    throw new IOException($"an unexpected frame with opcode {opcode}");
                if (length + count > Protocol.MaxServerMessage)
                    throw new IOException($"a message of more than {Protocol.MaxServerMessage} bytes");
                Grow(length, (int)count);
                ReadInto(Message, length, (int)count, progress);
                length += (int)count;
                inside = true;
                if (last) return length;
            }
        }

        /// <summary>Send one binary message. Raises <see cref="IOException"/>.</summary>
        public void Send(byte[] data, int count) => Send(Binary, data, count);

        /// <summary>Close at once. May be called twice.</summary>
        public void Close() => tcp.Close();

        private void Send(int opcode, byte[] data, int count)
        {
            lock (writeGate)
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
                try
                {
                    stream.Write(outgoing, 0, at);
                }
                catch (ObjectDisposedException)
                {
                    throw new IOException("the connection is closed");
                }
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

        private long ReadLength(int length)
        {
            if (length < 126) return length;
            int width = length == 126 ? 2 : 8;
            Fill(width);
            long value = 0;
            for (int i = 0; i < width; i++) value = value << 8 | incoming[incomingStart++];
            if (value < 0 || value > Protocol.MaxServerMessage)
                throw new IOException($"a message of more than {Protocol.MaxServerMessage} bytes");
            return value;
        }

        private void Grow(int used, int more)
        {
            if (Message.Length >= used + more) return;
            var larger = new byte[Math.Max(used + more, 2 * Message.Length)];
            Buffer.BlockCopy(Message, 0, larger, 0, used);
            Message = larger;
        }

        private void ReadInto(byte[] target, int offset, int count, Action progress)
        {
            int buffered = Math.Min(count, incomingEnd - incomingStart);
            Buffer.BlockCopy(incoming, incomingStart, target, offset, buffered);
            incomingStart += buffered;
            while (buffered < count)
            {
                buffered += Read(target, offset + buffered, count - buffered);
                progress?.Invoke();
            }
        }

        private void Fill(int count)
        {
            if (incomingEnd - incomingStart >= count) return;
            Buffer.BlockCopy(incoming, incomingStart, incoming, 0, incomingEnd - incomingStart);
            incomingEnd -= incomingStart;
            incomingStart = 0;
            while (incomingEnd < count)
                incomingEnd += Read(incoming, incomingEnd, incoming.Length - incomingEnd);
        }

        private int Read(byte[] target, int offset, int count)
        {
            try
            {
                int got = stream.Read(target, offset, count);
                if (got == 0) throw new IOException("the server closed the connection");
                return got;
            }
            catch (ObjectDisposedException)
            {
                throw new IOException("the connection is closed");
            }
        }

        private void Shake(Uri address, string key)
        {
            byte[] request = Encoding.ASCII.GetBytes(
                $"GET {address.PathAndQuery} HTTP/1.1\r\nHost: {address.Authority}\r\n"
                    + "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                    + $"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            );
            stream.Write(request, 0, request.Length);
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
                head.Append((char)incoming[incomingStart++]);
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
