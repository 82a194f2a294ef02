using System;
using System.IO;
using System.Net;
using System.Net.Security;
using System.Net.Sockets;

namespace WorldBridge
{
    /// <summary>
    /// A connection to a server, with blocking calls and buffers that are used again. One thread opens
    /// and reads while others write; <see cref="Close"/>, by any thread, ends a call that waits.
    /// </summary>
    public abstract class Connection
    {
        private const int MostParts = 3;

        /// <summary>Held while bytes are written.</summary>
        protected readonly object WriteGate = new object();
        private readonly object gate = new object();
        private readonly int[] lengths = new int[MostParts];
        private Socket socket;
        private Stream stream;
        private bool closed;
        private byte[] incoming = new byte[65536];
        private int start;
        private int end;

        /// <summary>Get the buffer of the last message; its parts follow each other.</summary>
        public byte[] Message { get; private set; } = new byte[65536];

        /// <summary>Get the number of parts of the last message: 1, or 2 to 3 for a ZeroMQ frame.</summary>
        public int Parts { get; private set; }

        /// <summary>Return the length of a part of the last message in bytes.</summary>
        public int Length(int part) => lengths[part];

        /// <summary>
        /// Connect. Raises <see cref="IOException"/> or <see cref="SocketException"/>, also for a
        /// server that refuses.
        /// </summary>
        public void Open(Uri address, int timeoutMs)
        {
            Connect(address);
            socket.NoDelay = true;
            socket.ReceiveTimeout = timeoutMs;
            socket.SendTimeout = timeoutMs;
            stream = new NetworkStream(socket);
            if (address.Scheme == "wss")
            {
                var secure = new SslStream(stream);
                secure.AuthenticateAsClient(address.DnsSafeHost);
                stream = secure;
            }
            try
            {
                Shake(address);
            }
            catch (ObjectDisposedException)
            {
                throw Ended();
            }
            socket.ReceiveTimeout = 0; // the session watches for silence
        }

        /// <summary>
        /// Wait for a message. Raises <see cref="IOException"/> when the connection ends and for
        /// anything that breaks the transport's rules.
        /// </summary>
        public void Receive(Action progress)
        {
            Parts = 0;
            ReceiveMessage(progress);
        }

        /// <summary>Send one message. Raises <see cref="IOException"/>.</summary>
        public abstract void Send(byte[] data, int count);

        /// <summary>Close at once. May be called twice.</summary>
        public void Close()
        {
            lock (gate)
            {
                closed = true;
                if (socket == null) return;
                try
                {
                    socket.Shutdown(SocketShutdown.Both); // Close alone may wait for a read
                }
                catch (SocketException)
                {
                    // was not connected
                }
                catch (ObjectDisposedException)
                {
                    return;
                }
                socket.Close();
            }
        }

        /// <summary>Exchange what the transport begins with.</summary>
        protected abstract void Shake(Uri address);

        /// <summary>Read one message by <see cref="Append"/> and <see cref="EndPart"/>.</summary>
        protected abstract void ReceiveMessage(Action progress);

        /// <summary>Write bytes.</summary>
        protected void Write(byte[] data, int count)
        {
            try
            {
                stream.Write(data, 0, count);
            }
            catch (ObjectDisposedException)
            {
                throw Ended();
            }
        }

        /// <summary>Wait until <paramref name="count"/> bytes are there to be taken one by one.</summary>
        protected void Fill(int count)
        {
            if (end - start >= count) return;
            Buffer.BlockCopy(incoming, start, incoming, 0, end - start);
            end -= start;
            start = 0;
            while (end < count) end += Read(incoming, end, incoming.Length - end);
        }

        /// <summary>Take one byte of those that <see cref="Fill"/> waited for.</summary>
        protected byte Next() => incoming[start++];

        /// <summary>Take an unsigned number of <paramref name="width"/> bytes, at most a message's length.</summary>
        protected int NextLength(int width)
        {
            Fill(width);
            long value = 0;
            for (int i = 0; i < width; i++) value = value << 8 | Next();
            if (value < 0 || value > Protocol.MaxServerMessage) throw TooLarge();
            return (int)value;
        }

        /// <summary>Read bytes to the end of the message, of which <paramref name="used"/> are there.</summary>
        protected void Append(int used, int count, Action progress)
        {
            if (used + count > Protocol.MaxServerMessage) throw TooLarge();
            if (Message.Length < used + count)
            {
                var larger = new byte[Math.Max(used + count, 2 * Message.Length)];
                Buffer.BlockCopy(Message, 0, larger, 0, used);
                Message = larger;
            }
            ReadInto(Message, used, count, progress);
        }

        /// <summary>End a part of <paramref name="length"/> bytes.</summary>
        protected void EndPart(int length)
        {
            if (Parts == MostParts) throw new IOException($"a message of more than {MostParts} parts");
            lengths[Parts++] = length;
        }

        /// <summary>Read bytes into an array.</summary>
        protected void ReadInto(byte[] target, int offset, int count, Action progress)
        {
            int buffered = Math.Min(count, end - start);
            Buffer.BlockCopy(incoming, start, target, offset, buffered);
            start += buffered;
            while (buffered < count)
            {
                buffered += Read(target, offset + buffered, count - buffered);
                progress?.Invoke();
            }
        }

        private static IOException Ended() => new IOException("the connection is closed");

        private static ProtocolError TooLarge() =>
            new ProtocolError(
                "message_too_large",
                "The server sent a message that is too large",
                $"at most {Protocol.MaxServerMessage} bytes",
                "more",
                "Update the older of client and server."
            );

        // Blocking, because a socket that was ever asynchronous allocates with each read of .NET;
        // Close ends it.
        private void Connect(Uri address)
        {
            IPAddress[] found = Dns.GetHostAddresses(address.DnsSafeHost);
            for (int i = 0; i < found.Length; i++)
            {
                var made = new Socket(found[i].AddressFamily, SocketType.Stream, ProtocolType.Tcp);
                lock (gate)
                {
                    socket = made;
                    if (closed) made.Close();
                }
                try
                {
                    made.Connect(found[i], address.Port);
                    return;
                }
                catch (SocketException) when (i + 1 < found.Length && !closed)
                {
                    made.Close();
                }
                catch (ObjectDisposedException)
                {
                    throw Ended();
                }
            }
            throw new IOException($"no address of {address.Host}");
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
                throw Ended();
            }
        }
    }
}
