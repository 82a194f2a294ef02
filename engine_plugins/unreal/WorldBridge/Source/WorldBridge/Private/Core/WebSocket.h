// A WebSocket client (RFC 6455) without I/O: bytes in, messages and bytes to send out.
#pragma once

#include <functional>
#include <string>

#include "MessagePack.h"

namespace worldbridge {

// Parts of ws://host:port/path or wss://.
struct Address {
    std::string host, path = "/session";
    int port = 80;
    bool tls = false;
};

// Read `ws://`, `wss://`, `http://` and `https://` addresses, or `host:port`; IPv6 in brackets. Returns
// whether it is one.
bool ReadAddress(std::string_view text, Address& address);

class WebSocket {
public:
    // `random` returns 32 unpredictable bits, for the key and the masks.
    WebSocket(Address to, size_t largest_message, std::function<uint32_t()> random);

    // Bytes that the caller writes to the socket; clear what was written.
    Bytes& Outgoing() { return outgoing; }
    // Give bytes from the socket. Returns false when the connection is over; `Reason()` tells why.
    bool Feed(const uint8_t* data, size_t size);
    // Move the oldest whole message into `message`. Returns whether there was one.
    bool Next(Bytes& message);
    void SendBinary(const Bytes& message) { SendFrame(2, message.data(), message.size()); }
    // Say goodbye; nothing more is sent after it.
    void Close();
    bool IsOpen() const { return phase == Phase::Open; }
    const std::string& Reason() const { return reason; }

private:
    enum class Phase : uint8_t { Handshake, Open, Over };

    bool Fail(std::string why, int code);
    bool ReadHandshake();
    bool ReadFrames();
    bool Control(int opcode, const uint8_t* data, size_t size);
    void SendFrame(int opcode, const uint8_t* data, size_t size);

    Address address;
    size_t largest;
    std::function<uint32_t()> random_bits;
    Phase phase = Phase::Handshake;
    std::string accept, reason;
    Bytes incoming, outgoing, partial;
    size_t begin = 0;  // of what is not read yet in `incoming`
    std::vector<Bytes> whole;
    size_t taken = 0;  // messages of `whole` that were returned
    bool fragmented = false;
};

// SHA-1 and base64, which only the handshake needs. Public for the tests.
std::string AcceptKey(std::string_view key);

}  // namespace worldbridge
