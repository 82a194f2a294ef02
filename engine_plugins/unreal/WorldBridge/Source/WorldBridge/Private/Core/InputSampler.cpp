#include "InputSampler.h"

#include <algorithm>
#include <cmath>

namespace worldbridge {

void InputSampler::SetKey(std::string_view code, bool held) {
    const auto found = std::find(keys.begin(), keys.end(), code);
    if (held == (found != keys.end())) return;
    if (!held) keys.erase(found);
    else if (keys.size() < MaxKeys && code.size() <= 24) keys.emplace_back(code);
    else return;
    changed = true;
}

void InputSampler::SetAxis(int axis, double value) {
    if (axis < 0 || axis > 3 || !std::isfinite(value)) return;
    value = std::clamp(value, -1.0, 1.0);
    if (value == axes[size_t(axis)]) return;
    axes[size_t(axis)] = value;
    changed = true;
}

void InputSampler::SetButton(int button, bool held) {
    if (button < 0 || button > 16) return;
    const uint32_t bit = 1u << button;
    const uint32_t after = held ? buttons | bit : buttons & ~bit;
    changed = changed || after != buttons;
    buttons = after;
}

void InputSampler::MovePointer(double dx, double dy) {
    if (!std::isfinite(dx) || !std::isfinite(dy) || (dx == 0 && dy == 0)) return;
    pointer[0] = std::clamp(pointer[0] + dx, -1e12, 1e12);
    pointer[1] = std::clamp(pointer[1] + dy, -1e12, 1e12);
    changed = true;
}

void InputSampler::ReleaseAll() {
    changed = true;
    keys.clear();
    axes = {0, 0, 0, 0};
    buttons = 0;
}

bool InputSampler::Due(double now) {
    const bool regular = now >= next;
    if (!regular && !(changed && now - last >= GapMs)) return false;
    // Counting from when it was due keeps 60 per second on average with a coarse timer.
    next = (regular && now - next < IntervalMs ? next : now) + IntervalMs;
    last = now;
    changed = false;
    return true;
}

const std::vector<ControllerState>& InputSampler::Sample(double now) {
    if (history.size() < StatesPerInput) history.emplace_back();
    std::rotate(history.begin(), history.end() - 1, history.end());
    ControllerState& state = history.front();
    state.sequence = sequence++;
    state.time = now;
    state.axes = axes;
    state.buttons = buttons;
    state.keys = keys;
    state.pointer = pointer;
    state.camera = camera;
    return history;
}

void InputSampler::Reset() {
    history.clear();
    sequence = 0;
    pointer = {0, 0};
    last = next = -Never;
}

}  // namespace worldbridge
