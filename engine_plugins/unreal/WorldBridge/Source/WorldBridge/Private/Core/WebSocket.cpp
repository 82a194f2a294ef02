#include "WebSocket.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

namespace worldbridge {
namespace {

constexpr size_t MaxHandshake = 16384;  // bytes of the server's HTTP answer

std::array<uint8_t, 20> Sha1(std::string_view text) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    Bytes data(text.begin(), text.end());
    data.push_back(0x80);
    while (data.size() % 64 != 56) data.push_back(0);
    for (int shift = 56; shift >= 0; shift -= 8) data.push_back(uint8_t(uint64_t(text.size()) * 8 >> shift));
    const auto turn = [](uint32_t x, int n) { return x << n | x >> (32 - n); };
    for (size_t block = 0; block < data.size(); block += 64) {
        uint32_t w[80];
        for (size_t i = 0; i < 16; ++i) {
            const uint8_t* p = &data[block + 4 * i];
            w[i] = uint32_t(p[0]) << 24 | uint32_t(p[1]) << 16 | uint32_t(p[2]) << 8 | p[3];
        }
        for (size_t i = 16; i < 80; ++i) w[i] = turn(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (size_t i = 0; i < 80; ++i) {
            const uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
            constexpr uint32_t K[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
            const uint32_t next = turn(a, 5) + f + e + K[i / 20] + w[i];
            e = d, d = c, c = turn(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    std::array<uint8_t, 20> out;
    for (size_t i = 0; i < 20; ++i) out[i] = uint8_t(h[i / 4] >> (24 - 8 * (i % 4)));
    return out;
}

std::string Base64(const uint8_t* data, size_t size) {
    constexpr const char* Letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (size_t i = 0; i < size; i += 3) {
        const uint32_t bits = uint32_t(data[i]) << 16 | (i + 1 < size ? uint32_t(data[i + 1]) << 8 : 0) | (i + 2 < size ? data[i + 2] : 0);
        for (size_t k = 0; k < 4; ++k) out += i + k <= size ? Letters[bits >> (18 - 6 * k) & 63] : '=';
    }
    return out;
}

std::string Lower(std::string_view text) {
    std::string out(text);
    for (char& c : out) c = char(std::tolower(uint8_t(c)));
    return out;
}

// The value of an HTTP header, without blanks around it; empty if it is absent.
std::string HeaderOf(std::string_view head, std::string_view name) {
    const std::string lower = Lower(head);
    const std::string key = "\r\n" + std::string(name) + ":";
    size_t at = lower.find(key);
    if (at == std::string::npos) return {};
    at += key.size();
    size_t end = std::min(head.find("\r\n", at), head.size());
    while (at < end && head[at] == ' ') ++at;
    while (end > at && head[end - 1] == ' ') --end;
    return std::string(head.substr(at, end - at));
}

}  // namespace

std::string AcceptKey(std::string_view key) {
    const auto hash = Sha1(std::string(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    return Base64(hash.data(), hash.size());
}

bool ReadAddress(std::string_view text, Address& address) {
    address = Address();
    for (std::string_view scheme : {"ws://", "http://", "wss://", "https://"})
        if (text.substr(0, scheme.size()) == scheme) {
            text.remove_prefix(scheme.size());
            address.tls = scheme == "wss://" || scheme == "https://";
            address.port = address.tls ? 443 : 80;
            break;
        }
    if (text.find("://") != std::string_view::npos) return false;
    const size_t slash = std::min(text.find('/'), text.size());
    if (text.size() - slash > 1) address.path = std::string(text.substr(slash));
    std::string_view place = text.substr(0, slash);
    for (char c : text)
        if (uint8_t(c) <= ' ' || uint8_t(c) >= 0x7f) return false;
    size_t colon = place.rfind(':');
    if (!place.empty() && place[0] == '[') {
        const size_t close = place.find(']');
        if (close == std::string_view::npos) return false;
        address.host = std::string(place.substr(1, close - 1));
        if (close + 1 == place.size()) return !address.host.empty();
        if (colon != close + 1) return false;
    } else {
        address.host = std::string(place.substr(0, std::min(colon, place.size())));
        if (colon == std::string_view::npos) return !address.host.empty();
    }
    int port = 0;
    const std::string_view digits = place.substr(colon + 1);
    if (digits.empty() || digits.size() > 5) return false;
    for (char c : digits) {
        if (c < '0' || c > '9') return false;
        port = port * 10 + (c - '0');
    }
    address.port = port;
    return port > 0 && port < 65536 && !address.host.empty();
}

WebSocket::WebSocket(Address to, size_t largest_message, std::function<uint32_t()> random)
    : address(std::move(to)), largest(largest_message), random_bits(std::move(random)) {
    uint8_t nonce[16];
    for (size_t i = 0; i < 16; i += 4) {
        const uint32_t bits = random_bits();
        std::memcpy(nonce + i, &bits, 4);
    }
    const std::string key = Base64(nonce, sizeof nonce);
    accept = AcceptKey(key);
    const bool six = address.host.find(':') != std::string::npos;
    const std::string host = (six ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
    const std::string request = "GET " + address.path + " HTTP/1.1\r\nHost: " + host +
                                "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: " + key +
                                "\r\nSec-WebSocket-Version: 13\r\n\r\n";
    outgoing.assign(request.begin(), request.end());
}

bool WebSocket::Fail(std::string why, int code) {
    reason = std::move(why);
    if (phase == Phase::Open) {
        const uint8_t payload[2] = {uint8_t(code >> 8), uint8_t(code)};
        SendFrame(8, payload, 2);
    }
    phase = Phase::Over;
    return false;
}

void WebSocket::Close() {
    if (phase != Phase::Over) Fail("closed by this side", 1000);
}

bool WebSocket::Feed(const uint8_t* data, size_t size) {
    if (phase == Phase::Over) return false;
    if (begin > 0 && begin == incoming.size()) incoming.clear(), begin = 0;
    incoming.insert(incoming.end(), data, data + size);
    if (phase == Phase::Handshake && !ReadHandshake()) return false;
    return phase == Phase::Handshake || ReadFrames();
}

bool WebSocket::ReadHandshake() {
    const std::string_view text(reinterpret_cast<const char*>(incoming.data()), incoming.size());
    const size_t end = text.find("\r\n\r\n");
    if (end == std::string_view::npos)
        return incoming.size() <= MaxHandshake || Fail("the server's HTTP answer is too long", 0);
    const std::string_view head = text.substr(0, end);
    const std::string_view line = head.substr(0, std::min(head.find("\r\n"), head.size()));
    if (line.substr(0, 12) != "HTTP/1.1 101")
        return Fail("this is no WebSocket: the server answered \"" + std::string(line.substr(0, 80)) + "\"", 0);
    if (Lower(HeaderOf(head, "upgrade")) != "websocket" || HeaderOf(head, "sec-websocket-accept") != accept)
        return Fail("the server's WebSocket handshake is not valid", 0);
    begin = end + 4;
    phase = Phase::Open;
    return true;
}

bool WebSocket::ReadFrames() {
    while (phase == Phase::Open) {
        const uint8_t* p = incoming.data() + begin;
        const size_t left = incoming.size() - begin;
        if (left < 2) break;
        const int opcode = p[0] & 15;
        const bool last = p[0] & 0x80;
        uint64_t size = p[1] & 0x7f;
        const size_t head = size == 126 ? 4 : size == 127 ? 10 : 2;
        if ((p[0] & 0x70) != 0 || (p[1] & 0x80) != 0) return Fail("a WebSocket frame with reserved bits or a mask", 1002);
        if (left < head) break;
        if (head > 2) {
            size = 0;
            for (size_t i = 2; i < head; ++i) size = size << 8 | p[i];
        }
        const bool control = opcode >= 8;
        if (control && (size > 125 || !last)) return Fail("a control frame that is too long or in parts", 1002);
        if (size > largest || (!control && partial.size() + size > largest))
            return Fail("a message of more than " + std::to_string(largest) + " bytes", 1009);
        if (left - head < size) {
            incoming.reserve(begin + head + size_t(size));
            break;
        }
        begin += head + size_t(size);
        const uint8_t* body = p + head;
        if (control) {
            if (!Control(opcode, body, size_t(size))) return false;
            continue;
        }
        if (opcode == 1) return Fail("a text message; every message is binary", 1003);
        if (opcode > 2) return Fail("a WebSocket frame of an unknown kind", 1002);
        if ((opcode == 0) != fragmented) return Fail("WebSocket fragments out of order", 1002);
        if (size > 0) partial.insert(partial.end(), body, body + size);
        fragmented = !last;
        if (!last) continue;
        whole.push_back(std::move(partial));
        partial.clear();
    }
    if (begin > 0) {  // keep only what is not read
        incoming.erase(incoming.begin(), incoming.begin() + std::ptrdiff_t(begin));
        begin = 0;
    }
    return phase == Phase::Open;
}

bool WebSocket::Control(int opcode, const uint8_t* data, size_t size) {
    if (opcode == 10) return true;  // pong
    if (opcode == 9) {
        SendFrame(10, data, size);
        return true;
    }
    if (opcode != 8) return Fail("a WebSocket frame of an unknown kind", 1002);
    const int code = size >= 2 ? data[0] << 8 | data[1] : 1005;
    std::string why = "the server closed the connection (" + std::to_string(code);
    if (size > 2) why += ", " + std::string(reinterpret_cast<const char*>(data) + 2, size - 2);
    return Fail(why + ")", 1000);
}

bool WebSocket::Next(Bytes& out) {
    if (taken == whole.size()) {
        whole.clear();
        taken = 0;
        return false;
    }
    out.swap(whole[taken++]);
    return true;
}

void WebSocket::SendFrame(int opcode, const uint8_t* data, size_t size) {
    if (phase != Phase::Open) return;
    outgoing.push_back(uint8_t(0x80 | opcode));
    if (size < 126) {
        outgoing.push_back(uint8_t(0x80 | size));
    } else {
        const int bytes = size <= 0xffff ? 2 : 8;
        outgoing.push_back(bytes == 2 ? 0xfe : 0xff);
        for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) outgoing.push_back(uint8_t(uint64_t(size) >> shift));
    }
    uint8_t mask[4];
    const uint32_t bits = random_bits();
    std::memcpy(mask, &bits, 4);
    outgoing.insert(outgoing.end(), mask, mask + 4);
    for (size_t i = 0; i < size; ++i) outgoing.push_back(data[i] ^ mask[i % 4]);
}

}  // namespace worldbridge
