// A session over a socket: drives Session and WebSocket, keeps the newest frame, sends input.
// One thread calls Step(); every other method may be called from any thread.
#pragma once

#include <mutex>

#include "ClockOffset.h"
#include "InputSampler.h"
#include "LatestFrame.h"
#include "Session.h"
#include "WebSocket.h"
#include "WorldOrigin.h"

namespace worldbridge {

// A TCP stream that never blocks, except in Wait.
class Socket {
public:
    enum class Link : uint8_t { Pending, Connected, Failed };

    virtual ~Socket() = default;
    // Begin to connect. Returns whether that was possible.
    virtual bool Open(const Address& address) = 0;
    virtual Link Poll() = 0;
    // Bytes read or written, 0: none at the moment, -1: the connection is over.
    virtual int Read(uint8_t* data, int size) = 0;
    virtual int Write(const uint8_t* data, int size) = 0;
    // Return when there is something to read, or after `ms`.
    virtual void Wait(int ms) = 0;
    // Send what is written and an end of stream; reading goes on.
    virtual void EndWriting() = 0;
    virtual void Close() = 0;
    // Why Poll() failed, for people; empty: unknown.
    virtual std::string Reason() const { return {}; }
};

// What a user interface shows of a session.
struct View {
    Session::State state = Session::State::Idle;
    std::string detail, world;
    std::optional<Error> error;
    std::vector<std::string> notices;  // since the last view
    std::vector<std::string> themes;
    int64_t width = 0, height = 0, frames = 0, dropped = 0;
    double fps = 0;           // of the world
    double round_trip = -1;   // shortest of the last pings, ms; -1: unknown
    double latency = -1;      // from reading the input to receiving its frame, ms, smoothed; -1: unknown
    bool wants_camera = false, wants_observations = false, has_depth = false;
};

struct Size {
    int64_t width = 0, height = 0;  // pixels
};

class Client {
public:
    // `clock` returns ms of a steady clock, `random` 32 unpredictable bits.
    Client(SessionOptions options, Address to, Socket& stream, std::function<double()> clock, std::function<uint32_t()> random);

    void Play(const std::string& theme, std::optional<int64_t> seed, std::vector<Bytes> prompt_frames = {});
    void Restart(const std::string& theme, std::optional<int64_t> seed);
    // Say goodbye and close; takes at most 0.2 s. Call it where Step() is called, as the last thing.
    void Leave();
    // Advance: read, write, send what is due. Wait at most a few ms before the next call.
    void Step();
    // Report the frame that is on the screen.
    void FrameShown(const FrameHeader& header, double received, double shown);

    // The size of such a frame: the shape of the world's frames and at most MaxObservedPixels.
    Size ObservedSize();
    // Give the world a frame that the engine rendered. Of several the newest is sent.
    void Observe(const Observation& given);
    // Where a frame is seen from: in the scene, if the world follows the camera that is sent.
    Pose SceneCamera(const FrameHeader& header);

    template <typename Change>
    void Input(Change change) {
        const std::lock_guard<std::mutex> lock(mutex);
        change(sampler);
    }
    bool TakeFrame(ReceivedFrame& frame) { return latest.Take(frame); }
    View Look();

private:
    void Execute();
    void Disconnect(bool politely);
    bool Flush();
    void Lost(const std::string& reason);
    void ReadAll();
    void Handle(Bytes& message, double now);
    bool Takes(const char* conditioning) const;

    std::mutex mutex;
    Session session;
    Address address;
    Socket& socket;
    std::function<double()> now_ms;
    std::function<uint32_t()> random_bits;
    std::optional<WebSocket> web;
    bool connecting = false;
    InputSampler sampler;
    ClockOffset offset;
    LatestFrame latest;
    ReceivedFrame spare;
    WorldOrigin origin;
    Bytes message, input, observation;
    std::vector<std::string> notices;
    int64_t frames = 0, last_answered = -1;
    double latency = -1;
};

}  // namespace worldbridge
