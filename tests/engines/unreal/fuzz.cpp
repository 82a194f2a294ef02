// libFuzzer: any bytes are a message or an error, and a WebSocket stream that ends or goes on.
// The first byte chooses: server messages, client messages, or a WebSocket stream.
#include <cstdlib>

#include "Protocol.h"
#include "WebSocket.h"

using namespace worldbridge;

namespace {

void Stream(const uint8_t* data, size_t size) {
    Bytes message;
    WebSocket web({"host", "/session", 80}, 4096, [] { return 7u; });
    if (size == 0) return;
    const size_t step = size_t(data[0] & 63) + 1;
    ++data, --size;
    // Bytes before this header are the attacker's too, but rarely get past it: so it is given.
    const std::string request(web.Outgoing().begin(), web.Outgoing().end());
    const std::string answer = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " +
                               AcceptKey(request.substr(request.find("Key: ") + 5, 24)) + "\r\n\r\n";
    if (step != 64 && !web.Feed(reinterpret_cast<const uint8_t*>(answer.data()), answer.size())) std::abort();
    for (size_t at = 0; at < size; at += step) {
        const bool good = web.Feed(data + at, step < size - at ? step : size - at);
        while (web.Next(message))
            if (message.size() > 4096) std::abort();
        if (!good) break;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const int target = data[0] % 3;
    ++data, --size;
    if (target == 2) {
        Stream(data, size);
        return 0;
    }
    Value value;
    const auto error = Validate(target == 0 ? Direction::Server : Direction::Client, data, size, value);
    if (error && (error->code.empty() || error->expected.empty())) std::abort();
    ServerMessage message;
    if (target == 0 && DecodeServer(data, size, message).has_value() != error.has_value()) std::abort();
    if (error) return 0;
    // What was accepted is written and read again: the same message.
    Bytes once, twice;
    Writer(once).Any(value);
    Value again;
    if (ReadValue(once.data(), once.size(), again) != nullptr) std::abort();
    Writer(twice).Any(again);
    if (once != twice) std::abort();
    return 0;
}
