#include "MessagePack.h"

#include <cstring>

namespace worldbridge {
namespace {

bool IsUtf8(const uint8_t* s, size_t n) {
    for (size_t i = 0; i < n;) {
        const uint8_t first = s[i];
        if (first < 0x80) {
            ++i;
            continue;
        }
        const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
        if (first < 0xc2 || first > 0xf4 || n - i < size_t(more) + 1) return false;
        uint32_t point = first & (0x3f >> more);
        for (int k = 1; k <= more; ++k) {
            if ((s[i + k] & 0xc0) != 0x80) return false;
            point = point << 6 | (s[i + k] & 0x3f);
        }
        if (more == 2 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) return false;
        if (more == 3 && (point < 0x10000 || point > 0x10ffff)) return false;
        i += size_t(more) + 1;
    }
    return true;
}

class Reader {
public:
    Reader(const uint8_t* bytes, size_t count) : data(bytes), left(count) {}

    const char* One(Value& v, int depth) {
        if (++values > MaxValues) return "more than 65536 values";
        if (left == 0) return Short;
        const uint8_t tag = uint8_t(Big(1));
        if (tag < 0x80) return Set(v, tag);
        if (tag >= 0xe0) return Set(v, int8_t(tag));
        if (tag < 0x90) return Items(v, Value::Kind::Map, tag & 15, depth);
        if (tag < 0xa0) return Items(v, Value::Kind::Array, tag & 15, depth);
        if (tag < 0xc0) return Text(v, tag & 31);
        if (tag == 0xc0) return nullptr;
        if (tag == 0xc2 || tag == 0xc3) {
            v.kind = Value::Kind::Bool;
            v.boolean = tag == 0xc3;
            return nullptr;
        }
        const int width = Width(tag);
        if (width == 0) return "an extension type or an unused tag";
        if (left < size_t(width)) return Short;
        const uint64_t raw = Big(width);
        switch (tag) {
            case 0xc4: case 0xc5: case 0xc6: return Binary(v, raw);
            case 0xca: {
                const uint32_t bits = uint32_t(raw);
                float value;
                std::memcpy(&value, &bits, sizeof value);
                return SetFloat(v, double(value));
            }
            case 0xcb: {
                double value;
                std::memcpy(&value, &raw, sizeof value);
                return SetFloat(v, value);
            }
            case 0xcc: case 0xcd: case 0xce: case 0xcf:
                return Set(v, raw > uint64_t(INT64_MAX) ? INT64_MAX : int64_t(raw));
            case 0xd0: return Set(v, int8_t(raw));
            case 0xd1: return Set(v, int16_t(raw));
            case 0xd2: return Set(v, int32_t(raw));
            case 0xd3: return Set(v, int64_t(raw));
            case 0xd9: case 0xda: case 0xdb: return Text(v, raw);
            case 0xdc: case 0xdd: return Items(v, Value::Kind::Array, raw, depth);
            default: return Items(v, Value::Kind::Map, raw, depth);
        }
    }

    size_t Left() const { return left; }

private:
    static constexpr const char* Short = "the message is cut short";

    static int Width(uint8_t tag) {  // bytes of the number after the tag
        switch (tag) {
            case 0xc4: case 0xcc: case 0xd0: case 0xd9: return 1;
            case 0xc5: case 0xcd: case 0xd1: case 0xda: case 0xdc: case 0xde: return 2;
            case 0xc6: case 0xca: case 0xce: case 0xd2: case 0xdb: case 0xdd: case 0xdf: return 4;
            case 0xcb: case 0xcf: case 0xd3: return 8;
            default: return 0;
        }
    }

    uint64_t Big(int bytes) {
        uint64_t value = 0;
        for (int i = 0; i < bytes; ++i) value = value << 8 | data[i];
        data += bytes;
        left -= size_t(bytes);
        return value;
    }

    static const char* Set(Value& v, int64_t value) {
        v.kind = Value::Kind::Integer;
        v.integer = value;
        return nullptr;
    }

    static const char* SetFloat(Value& v, double value) {
        v.kind = Value::Kind::Float;
        v.number = value;
        return nullptr;
    }

    const char* Text(Value& v, uint64_t size) {
        if (left < size) return Short;
        if (!IsUtf8(data, size_t(size))) return "a string that is not UTF-8";
        v.kind = Value::Kind::String;
        v.text = std::string_view(reinterpret_cast<const char*>(data), size_t(size));
        data += size;
        left -= size_t(size);
        return nullptr;
    }

    const char* Binary(Value& v, uint64_t size) {
        if (left < size) return Short;
        v.kind = Value::Kind::Binary;
        v.binary = {data, size_t(size)};
        data += size;
        left -= size_t(size);
        return nullptr;
    }

    const char* Items(Value& v, Value::Kind kind, uint64_t count, int depth) {
        if (depth >= MaxDepth) return "more than 16 levels of nesting";
        const uint64_t total = kind == Value::Kind::Map ? 2 * count : count;
        if (left < total) return Short;  // each item has at least one byte
        if (total > MaxValues) return "more than 65536 values";
        v.kind = kind;
        v.items.resize(size_t(total));
        for (size_t i = 0; i < total; ++i) {
            if (const char* fault = One(v.items[i], depth + 1)) return fault;
            if (kind == Value::Kind::Map && i % 2 == 0 && v.items[i].kind != Value::Kind::String)
                return "a key that is not a string";
        }
        return nullptr;
    }

    const uint8_t* data;
    size_t left;
    size_t values = 0;
};

}  // namespace

const Value* Value::Find(std::string_view key) const {
    if (kind != Kind::Map) return nullptr;
    for (size_t i = items.size(); i >= 2; i -= 2)
        if (items[i - 2].text == key) return &items[i - 1];
    return nullptr;
}

const char* ReadValue(const uint8_t* data, size_t size, Value& value) {
    Reader reader(data, size);
    value = Value();
    if (const char* fault = reader.One(value, 0)) return fault;
    return reader.Left() != 0 ? "bytes after the message" : nullptr;
}

void Writer::Big(uint64_t value, int bytes) {
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(uint8_t(value >> shift));
}

void Writer::Integer(int64_t value) {
    if (value >= -32 && value < 128) return Big(uint64_t(value) & 0xff, 1);
    struct Form { uint8_t tag; int bytes; };
    Form form;
    if (value >= 0)
        form = value <= 0xff ? Form{0xcc, 1} : value <= 0xffff ? Form{0xcd, 2} : value <= 0xffffffff ? Form{0xce, 4} : Form{0xcf, 8};
    else
        form = value >= INT8_MIN ? Form{0xd0, 1} : value >= INT16_MIN ? Form{0xd1, 2} : value >= INT32_MIN ? Form{0xd2, 4} : Form{0xd3, 8};
    out.push_back(form.tag);
    Big(uint64_t(value), form.bytes);
}

void Writer::Float(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    out.push_back(0xcb);
    Big(bits, 8);
}

void Writer::String(std::string_view value) {
    const size_t n = value.size();
    if (n < 32) {
        out.push_back(uint8_t(0xa0 | n));
    } else {
        const int bytes = n <= 0xff ? 1 : n <= 0xffff ? 2 : 4;
        out.push_back(bytes == 1 ? 0xd9 : bytes == 2 ? 0xda : 0xdb);
        Big(n, bytes);
    }
    out.insert(out.end(), value.begin(), value.end());
}

void Writer::Binary(ByteView value) {
    const int bytes = value.size <= 0xff ? 1 : value.size <= 0xffff ? 2 : 4;
    out.push_back(bytes == 1 ? 0xc4 : bytes == 2 ? 0xc5 : 0xc6);
    Big(value.size, bytes);
    if (value.size != 0) out.insert(out.end(), value.data, value.data + value.size);
}

void Writer::Array(size_t count) {
    if (count < 16) return Big(0x90 | count, 1);
    out.push_back(count <= 0xffff ? 0xdc : 0xdd);
    Big(count, count <= 0xffff ? 2 : 4);
}

void Writer::Map(size_t count) {
    if (count < 16) return Big(0x80 | count, 1);
    out.push_back(count <= 0xffff ? 0xde : 0xdf);
    Big(count, count <= 0xffff ? 2 : 4);
}

void Writer::Any(const Value& value) {
    switch (value.kind) {
        case Value::Kind::Nil: return Nil();
        case Value::Kind::Bool: return Bool(value.boolean);
        case Value::Kind::Integer: return Integer(value.integer);
        case Value::Kind::Float: return Float(value.number);
        case Value::Kind::String: return String(value.text);
        case Value::Kind::Binary: return Binary(value.binary);
        case Value::Kind::Array: Array(value.items.size()); break;
        case Value::Kind::Map: Map(value.items.size() / 2); break;
    }
    for (const Value& item : value.items) Any(item);
}

}  // namespace worldbridge
