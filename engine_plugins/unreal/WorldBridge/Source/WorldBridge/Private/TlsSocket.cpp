#include "TlsSocket.h"

#include <algorithm>

#ifdef THIRD_PARTY_INCLUDES_START
THIRD_PARTY_INCLUDES_START
#endif
#define UI UI_ST  // the engine has a namespace of this name
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#undef UI
#ifdef THIRD_PARTY_INCLUDES_END
THIRD_PARTY_INCLUDES_END
#endif

namespace worldbridge {

bool TlsSocket::Open(const Address& address) {
    Close();
    reason.clear();
    if (!under.Open(address)) return false;
    if (!address.tls) return true;
    context = SSL_CTX_new(TLS_client_method());
    if (context == nullptr) return false;
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    add_trusted(context);
    tls = SSL_new(context);
    from_stream = BIO_new(BIO_s_mem());
    to_stream = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(from_stream, -1);
    SSL_set_bio(tls, from_stream, to_stream);  // owns both
    // The certificate must be of this address or name.
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls), address.host.c_str()) != 1) {
        SSL_set1_host(tls, address.host.c_str());
        SSL_set_tlsext_host_name(tls, address.host.c_str());
    }
    SSL_set_connect_state(tls);
    return true;
}

Socket::Link TlsSocket::Poll() {
    const Link link = under.Poll();
    if (tls == nullptr || link != Link::Connected) return link;
    if (!Push() || !Pull()) return Link::Failed;
    const int result = SSL_do_handshake(tls);
    if (!Push()) return Link::Failed;
    if (result == 1) return Link::Connected;
    if (!IsOver(result) && !ended) return Link::Pending;
    const long verdict = SSL_get_verify_result(tls);
    reason = "TLS failed";
    if (verdict != X509_V_OK) reason += std::string(": the server's certificate: ") + X509_verify_cert_error_string(verdict);
    return Link::Failed;
}

int TlsSocket::Read(uint8_t* data, int size) {
    if (tls == nullptr) return under.Read(data, size);
    if (!Push() || !Pull()) return -1;
    const int result = SSL_read(tls, data, size);
    if (result > 0) return result;
    return IsOver(result) || ended ? -1 : 0;
}

int TlsSocket::Write(const uint8_t* data, int size) {
    if (tls == nullptr) return under.Write(data, size);
    if (!Push()) return -1;
    if (!unsent.empty()) return 0;  // the stream takes no more at the moment
    const int result = SSL_write(tls, data, std::min(size, 16384));
    if (!Push()) return -1;
    if (result > 0) return result;
    return IsOver(result) ? -1 : 0;
}

void TlsSocket::Wait(int ms) {
    if (tls == nullptr || SSL_pending(tls) == 0) under.Wait(ms);
}

void TlsSocket::EndWriting() {
    if (tls != nullptr) {
        SSL_shutdown(tls);
        Push();
    }
    under.EndWriting();
}

void TlsSocket::Close() {
    if (tls != nullptr) SSL_free(tls);
    if (context != nullptr) SSL_CTX_free(context);
    tls = nullptr;
    context = nullptr;
    unsent.clear();
    ended = false;
    under.Close();
}

bool TlsSocket::Push() {
    uint8_t data[16384];
    for (int size; unsent.size() < 65536 && (size = BIO_read(to_stream, data, sizeof data)) > 0;)
        unsent.insert(unsent.end(), data, data + size);
    size_t sent = 0;
    while (sent < unsent.size()) {
        const int size = under.Write(unsent.data() + sent, int(unsent.size() - sent));
        if (size < 0) return false;
        if (size == 0) break;
        sent += size_t(size);
    }
    unsent.erase(unsent.begin(), unsent.begin() + std::ptrdiff_t(sent));
    return true;
}

bool TlsSocket::Pull() {
    uint8_t data[16384];
    while (!ended && BIO_ctrl_pending(from_stream) < 65536) {
        const int size = under.Read(data, sizeof data);
        if (size == 0) break;
        if (size < 0) ended = true;  // what came before is still read
        else if (BIO_write(from_stream, data, size) != size) return false;
    }
    return true;
}

bool TlsSocket::IsOver(int result) {
    const int error = SSL_get_error(tls, result);
    ERR_clear_error();
    return error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
}

}  // namespace worldbridge
