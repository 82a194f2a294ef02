// The slot between the network thread and the game thread: the newest frame wins.
#pragma once

#include <mutex>
#include <utility>

#include "Protocol.h"

namespace worldbridge {

// A frame with the message that its views point into.
struct ReceivedFrame {
    Bytes message;
    Frame frame;
    double received = 0;  // client time, ms
};

class LatestFrame {
public:
    // Store a frame; one that was not taken yet is dropped. Swaps, so that buffers are reused.
    void Put(ReceivedFrame& frame) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (full) ++dropped;
        std::swap(slot, frame);
        full = true;
    }

    // Take the newest frame. Returns whether there was one that was not taken yet.
    bool Take(ReceivedFrame& frame) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!full) return false;
        std::swap(slot, frame);
        full = false;
        return true;
    }

    void Clear() {
        const std::lock_guard<std::mutex> lock(mutex);
        full = false;
    }

    int64_t Dropped() const {
        const std::lock_guard<std::mutex> lock(mutex);
        return dropped;
    }

private:
    mutable std::mutex mutex;
    ReceivedFrame slot;
    bool full = false;
    int64_t dropped = 0;
};

}  // namespace worldbridge
