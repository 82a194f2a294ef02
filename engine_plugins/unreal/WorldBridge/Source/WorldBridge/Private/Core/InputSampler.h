// A player's devices as a sequence of controller states. It knows neither engine nor clock.
#pragma once

#include "Protocol.h"

namespace worldbridge {

class InputSampler {
public:
    static constexpr double IntervalMs = 1000.0 / 60;  // while nothing changes
    static constexpr double GapMs = 6;                 // a 1000 Hz mouse must not send 1000 messages a second

    // Press or release a key, by its `KeyboardEvent.code`. At most MaxKeys are held.
    void SetKey(std::string_view code, bool held);
    // Axes of the W3C standard gamepad, Y down: left X, left Y, right X, right Y. Clamped to -1..1.
    void SetAxis(int axis, double value);
    // Buttons of the W3C standard gamepad, 0 to 16.
    void SetButton(int button, bool held);
    // Add pointer movement in pixels, +x right, +y down.
    void MovePointer(double dx, double dy);
    // The client's own camera; absent for worlds that move the camera themselves.
    void SetCamera(const std::optional<Pose>& pose) { camera = pose; }
    // Release keys, sticks and buttons; the pointer's counters are kept.
    void ReleaseAll();

    // Whether a state is due: soon after a change, and 60 times per second.
    bool Due(double now);
    // Take the next state. Returns the last states, newest first: what an `input` carries.
    const std::vector<ControllerState>& Sample(double now);
    // Begin the counters again, as every connection may.
    void Reset();

private:
    std::vector<std::string> keys;
    std::array<double, 4> axes{0, 0, 0, 0};
    uint32_t buttons = 0;
    std::array<double, 2> pointer{0, 0};
    std::optional<Pose> camera;
    std::vector<ControllerState> history;
    int64_t sequence = 0;
    double last = -Never, next = -Never;
    bool changed = false;
    static constexpr double Never = 1e300;
};

}  // namespace worldbridge
