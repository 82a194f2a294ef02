using System;
using System.Text;

namespace WorldBridge
{
    /// <summary>Write MessagePack into one buffer that grows and is used again.</summary>
    public sealed class MessagePackWriter
    {
        private byte[] buffer = new byte[1024];

        /// <summary>Get the buffer; the first <see cref="Length"/> bytes are written.</summary>
        public byte[] Buffer => buffer;

        /// <summary>Get the number of bytes written.</summary>
        public int Length { get; private set; }

        /// <summary>Begin a new message.</summary>
        public void Reset() => Length = 0;

        /// <summary>Write nil.</summary>
        public void Nil() => Byte(0xc0);

        /// <summary>Write a boolean.</summary>
        public void Bool(bool value) => Byte(value ? 0xc3 : 0xc2);

        /// <summary>Write the head of a map with <paramref name="count"/> keys, at most 65535.</summary>
        public void Map(int count)
        {
            if (count < 16) Byte(0x80 | count);
            else Head(0xde, (ulong)count, 2);
        }

        /// <summary>Write the head of a list, at most 65535 long.</summary>
        public void Array(int count)
        {
            if (count < 16) Byte(0x90 | count);
            else Head(0xdc, (ulong)count, 2);
        }

        /// <summary>Write an integer in its shortest form.</summary>
        public void Int(long value)
        {
            if (value >= 0) Unsigned((ulong)value);
            else if (value >= -32) Byte((int)value & 0xff);
            else if (value >= sbyte.MinValue) Head(0xd0, (ulong)value, 1);
            else if (value >= short.MinValue) Head(0xd1, (ulong)value, 2);
            else if (value >= int.MinValue) Head(0xd2, (ulong)value, 4);
            else Head(0xd3, (ulong)value, 8);
        }

        /// <summary>Write a 64-bit float. Raises <see cref="ArgumentException"/> for NaN and infinities.</summary>
        public void Float(double value)
        {
            if (double.IsNaN(value) || double.IsInfinity(value))
                throw new ArgumentException($"a finite number was expected, got {value}");
            Head(0xcb, (ulong)BitConverter.DoubleToInt64Bits(value), 8);
        }

        /// <summary>Write a string, or nil for null.</summary>
        public void String(string value)
        {
            if (value == null)
            {
                Nil();
                return;
            }
            int count = Encoding.UTF8.GetByteCount(value);
            if (count < 32) Byte(0xa0 | count);
            else if (count < 256) Head(0xd9, (ulong)count, 1);
            else if (count < 65536) Head(0xda, (ulong)count, 2);
            else Head(0xdb, (ulong)count, 4);
            Reserve(count);
            Encoding.UTF8.GetBytes(value, 0, value.Length, buffer, Length);
            Length += count;
        }

        /// <summary>Write bytes.</summary>
        public void Bytes(byte[] data, int offset, int count)
        {
            if (count < 256) Head(0xc4, (ulong)count, 1);
            else if (count < 65536) Head(0xc5, (ulong)count, 2);
            else Head(0xc6, (ulong)count, 4);
            Reserve(count);
            System.Buffer.BlockCopy(data, offset, buffer, Length, count);
            Length += count;
        }

        private void Unsigned(ulong value)
        {
            if (value < 128) Byte((int)value);
            else if (value <= byte.MaxValue) Head(0xcc, value, 1);
            else if (value <= ushort.MaxValue) Head(0xcd, value, 2);
            else if (value <= uint.MaxValue) Head(0xce, value, 4);
            else Head(0xcf, value, 8);
        }

        private void Byte(int value)
        {
            Reserve(1);
            buffer[Length++] = (byte)value;
        }

        private void Head(int code, ulong value, int width)
        {
            Reserve(1 + width);
            buffer[Length++] = (byte)code;
            for (int shift = 8 * (width - 1); shift >= 0; shift -= 8)
                buffer[Length++] = (byte)(value >> shift);
        }

        private void Reserve(int count)
        {
            if (Length + count > buffer.Length)
                System.Array.Resize(ref buffer, Math.Max(2 * buffer.Length, Length + count));
        }
    }
}
