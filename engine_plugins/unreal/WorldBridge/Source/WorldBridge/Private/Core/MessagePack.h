// MessagePack values without copies: strings and bytes point into the message they were read from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace worldbridge {

using Bytes = std::vector<uint8_t>;

inline constexpr int MaxDepth = 16;          // levels of nesting in a message
inline constexpr size_t MaxValues = 65536;   // values in a message: a small message must not fill memory
inline constexpr int64_t MaxInteger = 9007199254740991;  // 2^53 - 1

// A view of bytes that someone else owns.
struct ByteView {
    const uint8_t* data = nullptr;
    size_t size = 0;
};

struct Value {
    enum class Kind : uint8_t { Nil, Bool, Integer, Float, String, Binary, Array, Map };

    Kind kind = Kind::Nil;
    bool boolean = false;
    int64_t integer = 0;  // larger unsigned integers read as INT64_MAX
    double number = 0.0;
    std::string_view text;
    ByteView binary;
    std::vector<Value> items;  // of a map: key, value, key, value; every key is a String

    bool IsNumber() const { return kind == Kind::Integer || kind == Kind::Float; }
    double Number() const { return kind == Kind::Integer ? double(integer) : number; }
    // Return the last value of a key, or nullptr if this is no map or lacks the key.
    const Value* Find(std::string_view key) const;
};

// Read exactly one value that fills `data`. Returns nullptr, or what is wrong with the bytes.
const char* ReadValue(const uint8_t* data, size_t size, Value& value);

// Appends MessagePack in its shortest form; floats have 64 bits.
class Writer {
public:
    explicit Writer(Bytes& target) : out(target) {}
    void Nil() { out.push_back(0xc0); }
    void Bool(bool value) { out.push_back(value ? 0xc3 : 0xc2); }
    void Integer(int64_t value);
    void Float(double value);
    void String(std::string_view value);
    void Binary(ByteView value);
    void Array(size_t count);
    void Map(size_t count);
    void Any(const Value& value);

private:
    void Big(uint64_t value, int bytes);
    Bytes& out;
};

}  // namespace worldbridge
