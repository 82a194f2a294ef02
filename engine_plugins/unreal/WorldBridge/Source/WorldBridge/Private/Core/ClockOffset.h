// Client time minus server time, from pings.
#pragma once

#include <cstddef>
#include <optional>

namespace worldbridge {

// Takes the shortest of the last round trips: queueing only adds time, so the shortest is the most
// symmetric. The error is at most half of it.
class ClockOffset {
public:
    // Add a round trip: client time sent and received, and the server's time, in ms.
    void Pong(double sent, double received, double server_time) {
        const double trip = received - sent;
        if (!(trip >= 0)) return;
        latest = trip;
        samples[next] = {trip, (sent + received) / 2 - server_time};
        next = (next + 1) % Window;
        if (count < Window) ++count;
    }

    std::optional<double> Offset() const {
        const Sample* best = Best();
        return best != nullptr ? std::optional<double>(best->offset) : std::nullopt;
    }
    std::optional<double> ShortestRoundTrip() const {
        const Sample* best = Best();
        return best != nullptr ? std::optional<double>(best->trip) : std::nullopt;
    }
    std::optional<double> LatestRoundTrip() const { return latest; }
    void Reset() { *this = ClockOffset(); }

private:
    static constexpr size_t Window = 30;
    struct Sample {
        double trip = 0, offset = 0;
    };

    const Sample* Best() const {
        const Sample* best = nullptr;
        for (size_t i = 0; i < count; ++i)
            if (best == nullptr || samples[i].trip < best->trip) best = &samples[i];
        return best;
    }

    Sample samples[Window];
    size_t count = 0, next = 0;
    std::optional<double> latest;
};

}  // namespace worldbridge
