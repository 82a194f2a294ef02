// TLS by OpenSSL over another socket, for wss://. Without engine headers: the tests build it as it is.
#pragma once

#include "Core/Client.h"

struct bio_st;
struct ssl_ctx_st;
struct ssl_st;

namespace worldbridge {

// Addresses without TLS pass through.
class TlsSocket final : public Socket {
public:
    // `trust` adds the certificates that are trusted to a context.
    TlsSocket(Socket& stream, std::function<void(ssl_ctx_st*)> trust) : under(stream), add_trusted(std::move(trust)) {}
    ~TlsSocket() override { Close(); }

    bool Open(const Address& address) override;
    Link Poll() override;
    int Read(uint8_t* data, int size) override;
    int Write(const uint8_t* data, int size) override;
    void Wait(int ms) override;
    void EndWriting() override;
    void Close() override;
    std::string Reason() const override { return reason; }

private:
    bool Push();  // what OpenSSL wrote, to the stream
    bool Pull();  // what the stream has, to OpenSSL
    bool IsOver(int result);

    Socket& under;
    std::function<void(ssl_ctx_st*)> add_trusted;
    ssl_ctx_st* context = nullptr;
    ssl_st* tls = nullptr;
    bio_st* from_stream = nullptr;
    bio_st* to_stream = nullptr;
    Bytes unsent;
    std::string reason;
    bool ended = false;  // the stream gave its last byte
};

}  // namespace worldbridge
