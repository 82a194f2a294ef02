using System;
using System.Text;

namespace WorldBridge
{
    /// <summary>
    /// Read MessagePack from a buffer without copying and without allocation, except by
    /// <see cref="String"/>. Every method raises <see cref="ProtocolError"/> for other kinds of values.
    /// </summary>
    public sealed class MessagePackReader
    {
        private const int MaxDepth = 16;
        private static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, true);

        private byte[] data = System.Array.Empty<byte>();
        private int position;
        private int end;
        private int textStart;
        private int textLength;

        /// <summary>Begin to read <paramref name="count"/> bytes of <paramref name="buffer"/>.</summary>
        public void Reset(byte[] buffer, int offset, int count)
        {
            data = buffer;
            position = offset;
            end = offset + count;
        }

        /// <summary>Check that one value was all of the buffer, and skip back to its beginning.</summary>
        public void CheckWhole()
        {
            int start = position;
            Skip(0);
            if (position != end) throw Malformed("one value", $"{end - position} more bytes");
            position = start;
        }

        /// <summary>Read nil if it comes next, and return whether it did.</summary>
        public bool TryNil()
        {
            if (Peek() != 0xc0) return false;
            position++;
            return true;
        }

        /// <summary>Read the head of a map and return its number of keys.</summary>
        public int Map(string path)
        {
            int code = Peek();
            if ((code & 0xf0) == 0x80) return Fix(0x0f);
            if (code == 0xde) return Length(2);
            if (code == 0xdf) return Length(4);
            throw Kind(path, "a map");
        }

        /// <summary>Read the head of a list and return its length, at most <paramref name="most"/>.</summary>
        public int Array(string path, int most)
        {
            int code = Peek();
            int count;
            if ((code & 0xf0) == 0x90) count = Fix(0x0f);
            else if (code == 0xdc) count = Length(2);
            else if (code == 0xdd) count = Length(4);
            else throw Kind(path, "a list");
            if (count > most) throw ProtocolError.Bad(path, $"at most {most} items", $"{count}");
            return count;
        }

        /// <summary>Read a string without decoding it: <see cref="Is"/> compares it.</summary>
        public void Text(string path)
        {
            int code = Peek();
            if ((code & 0xe0) == 0xa0) textLength = Fix(0x1f);
            else if (code == 0xd9) textLength = Length(1);
            else if (code == 0xda) textLength = Length(2);
            else if (code == 0xdb) textLength = Length(4);
            else throw Kind(path, "a string");
            textStart = Take(textLength);
        }

        /// <summary>Return whether the last text equals an ASCII name.</summary>
        public bool Is(string name)
        {
            if (name.Length != textLength) return false;
            for (int i = 0; i < textLength; i++)
                if (data[textStart + i] != name[i])
                    return false;
            return true;
        }

        /// <summary>Return the last text as a string.</summary>
        public string LastText()
        {
            try
            {
                return Utf8.GetString(data, textStart, textLength);
            }
            catch (ArgumentException)
            {
                throw Malformed("UTF-8", "other bytes");
            }
        }

        /// <summary>Read a string of at most <paramref name="most"/> characters.</summary>
        public string String(string path, int most)
        {
            Text(path);
            string text = LastText();
            int characters = text.Length;
            foreach (char unit in text)
                if (char.IsLowSurrogate(unit))
                    characters--;
            if (characters > most)
                throw ProtocolError.Bad(path, $"at most {most} characters", $"{characters}");
            return text;
        }

        /// <summary>Read bytes and return where they start in the buffer.</summary>
        public int Bytes(string path, out int count)
        {
            int code = Peek();
            if (code < 0xc4 || code > 0xc6) throw Kind(path, "bytes");
            count = Length(1 << (code - 0xc4));
            return Take(count);
        }

        /// <summary>Read a boolean.</summary>
        public bool Bool(string path)
        {
            int code = Peek();
            if (code != 0xc2 && code != 0xc3) throw Kind(path, "a boolean");
            position++;
            return code == 0xc3;
        }

        /// <summary>Read an integer of at most 2^53 - 1 between two bounds.</summary>
        public long Int(string path, long low = 0, long high = 9007199254740991)
        {
            int code = Peek();
            if (!IsInt(code)) throw Kind(path, "an integer");
            long value = ReadInt(code);
            if (value < low || value > high)
                throw ProtocolError.Bad(path, $"{low} to {high}", $"{value}");
            return value;
        }

        /// <summary>Read a finite number between two bounds. An integer stands for a float.</summary>
        public double Float(string path, double low = double.MinValue, double high = double.MaxValue)
        {
            int code = Peek();
            double value;
            if (code == 0xcb)
            {
                position++;
                value = BitConverter.Int64BitsToDouble((long)Unsigned(8));
            }
            else if (code == 0xca)
            {
                position++;
                value = BitConverter.Int32BitsToSingle((int)Unsigned(4));
            }
            else if (IsInt(code)) value = ReadInt(code);
            else throw Kind(path, "a number");
            if (!(value >= low && value <= high))
                throw ProtocolError.Bad(path, $"{low} to {high}", $"{value}");
            return value;
        }

        /// <summary>Skip one value. Raises for extension types and more than 16 levels.</summary>
        public void Skip(int depth)
        {
            int code = Peek();
            bool map = (code & 0xf0) == 0x80 || code == 0xde || code == 0xdf;
            bool list = (code & 0xf0) == 0x90 || code == 0xdc || code == 0xdd;
            if (map || list)
            {
                if (depth >= MaxDepth)
                    throw Malformed($"at most {MaxDepth} levels of nesting", "more");
                int items = map ? Map("") : Array("", int.MaxValue);
                for (int i = 0; i < items; i++)
                {
                    if (map) SkipText();
                    Skip(depth + 1);
                }
            }
            else if (code == 0xc0 || code == 0xc2 || code == 0xc3) position++;
            else if (code == 0xca || code == 0xcb)
            {
                position++;
                Take(code == 0xca ? 4 : 8);
            }
            else if (IsInt(code)) ReadInt(code);
            else if (code >= 0xc4 && code <= 0xc6) Bytes("", out _);
            else SkipText();
        }

        private void SkipText()
        {
            Text("");
            for (int i = textStart; i < textStart + textLength; i++)
                if (data[i] >= 0x80)
                {
                    LastText();
                    return;
                }
        }

        private int Peek()
        {
            if (position >= end) throw Malformed("a value", "the end of the message");
            return data[position];
        }

        private int Fix(int mask) => data[position++] & mask;

        private int Length(int width)
        {
            position++;
            ulong length = Unsigned(width);
            if (length > (ulong)(end - position))
                throw Malformed($"at most {end - position} more", $"{length}");
            return (int)length;
        }

        private int Take(int count)
        {
            if (count > end - position)
                throw Malformed($"{count} bytes", $"{end - position} bytes");
            int start = position;
            position += count;
            return start;
        }

        private static bool IsInt(int code) =>
            code < 0x80 || code >= 0xe0 || (code >= 0xcc && code <= 0xd3);

        private long ReadInt(int code)
        {
            position++;
            if (code < 0x80) return code;
            if (code >= 0xe0) return code - 256;
            if (code >= 0xd0)
            {
                int width = 1 << (code - 0xd0);
                int unused = 64 - 8 * width;
                return (long)(Unsigned(width) << unused) >> unused;
            }
            ulong value = Unsigned(1 << (code - 0xcc));
            if (value > long.MaxValue) throw Malformed("an integer of at most 2^53 - 1", $"{value}");
            return (long)value;
        }

        private ulong Unsigned(int width)
        {
            int start = Take(width);
            ulong value = 0;
            for (int i = 0; i < width; i++) value = (value << 8) | data[start + i];
            return value;
        }

        private ProtocolError Kind(string path, string expected)
        {
            int code = Peek();
            string got =
                code == 0xc0 ? "nil"
                : IsInt(code) ? "an integer"
                : code == 0xca || code == 0xcb ? "a float"
                : code == 0xc2 || code == 0xc3 ? "a boolean"
                : (code & 0xe0) == 0xa0 || (code >= 0xd9 && code <= 0xdb) ? "a string"
                : code >= 0xc4 && code <= 0xc6 ? "bytes"
                : $"another kind (0x{code:x2})";
            return ProtocolError.Bad(path, expected, got);
        }

        private static ProtocolError Malformed(string expected, string got) =>
            ProtocolError.Bad("", expected, got);
    }
}
