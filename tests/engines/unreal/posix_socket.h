// The client's socket interface over POSIX, for the console programs of the tests.
#pragma once

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <random>
#include <string>

#include "Client.h"

class PosixSocket final : public worldbridge::Socket {
public:
    ~PosixSocket() override { Close(); }

    bool Open(const worldbridge::Address& address) override {
        Close();
        addrinfo hints{}, *found = nullptr;
        hints.ai_socktype = SOCK_STREAM;
        if (getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found) != 0) return false;
        fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        const int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        const bool begun = fd >= 0 && (connect(fd, found->ai_addr, found->ai_addrlen) == 0 || errno == EINPROGRESS);
        freeaddrinfo(found);
        return begun;
    }

    Link Poll() override {
        pollfd p{fd, POLLOUT, 0};
        if (poll(&p, 1, 0) <= 0) return Link::Pending;
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        return error == 0 ? Link::Connected : Link::Failed;
    }

    int Read(uint8_t* data, int size) override {
        const ssize_t n = recv(fd, data, size_t(size), 0);
        return n > 0 ? int(n) : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    }

    int Write(const uint8_t* data, int size) override {
        const ssize_t n = send(fd, data, size_t(size), MSG_NOSIGNAL);
        return n > 0 ? int(n) : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    }

    void Wait(int ms) override {
        pollfd p{fd, POLLIN, 0};
        poll(&p, fd >= 0 ? 1 : 0, ms);
    }

    void EndWriting() override { shutdown(fd, SHUT_WR); }

    void Close() override {
        if (fd >= 0) close(fd);
        fd = -1;
    }

private:
    int fd = -1;
};

inline double NowMs() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
