// Relates a world's coordinates to a scene's. A world takes the first camera that is sent as the place
// where its player stands; the camera that a frame answers says where that is in the scene.
#pragma once

#include "Protocol.h"

namespace worldbridge {

inline std::array<double, 3> Turn(const std::array<double, 4>& q, const std::array<double, 3>& v) {
    const double u[3] = {2 * (q[1] * v[2] - q[2] * v[1]), 2 * (q[2] * v[0] - q[0] * v[2]), 2 * (q[0] * v[1] - q[1] * v[0])};
    return {v[0] + q[3] * u[0] + q[1] * u[2] - q[2] * u[1], v[1] + q[3] * u[1] + q[2] * u[0] - q[0] * u[2],
            v[2] + q[3] * u[2] + q[0] * u[1] - q[1] * u[0]};
}

// Pose `b`, given in the axes of `a`, in those that `a` is given in.
inline Pose Compose(const Pose& a, const Pose& b) {
    const auto& p = a.orientation;
    const auto& q = b.orientation;
    Pose out;
    out.position = Turn(p, b.position);
    for (size_t i = 0; i < 3; ++i) out.position[i] += a.position[i];
    out.orientation = {p[3] * q[0] + p[0] * q[3] + p[1] * q[2] - p[2] * q[1], p[3] * q[1] - p[0] * q[2] + p[1] * q[3] + p[2] * q[0],
                       p[3] * q[2] + p[0] * q[1] - p[1] * q[0] + p[2] * q[3], p[3] * q[3] - p[0] * q[0] - p[1] * q[1] - p[2] * q[2]};
    out.fov_y = b.fov_y;
    return out;
}

inline Pose Inverse(const Pose& a) {
    Pose out;
    out.orientation = {-a.orientation[0], -a.orientation[1], -a.orientation[2], a.orientation[3]};
    out.position = Turn(out.orientation, {-a.position[0], -a.position[1], -a.position[2]});
    out.fov_y = a.fov_y;
    return out;
}

class WorldOrigin {
public:
    // Remember the scene's camera of a controller state.
    void Sent(const ControllerState& state) {
        if (!state.camera) return;
        newest = {state.sequence, *state.camera};
        sent[size_t(state.sequence) % Remembered] = newest;
    }

    // Where a frame is seen from in the scene: at the newest camera until a frame answers a state with one.
    Pose ToScene(const FrameHeader& header) {
        if (header.input_sequence >= 0) {
            const Item& item = sent[size_t(header.input_sequence) % Remembered];
            if (item.sequence == header.input_sequence) {
                to_scene = Compose(item.camera, Inverse(header.camera));
                placed = true;
            }
        }
        if (!placed && newest.sequence >= 0) return {newest.camera.position, newest.camera.orientation, header.camera.fov_y};
        return Compose(to_scene, header.camera);
    }

    // Sequences begin again, as with every connection.
    void Forget() { sent = {}; }

private:
    static constexpr size_t Remembered = 256;
    struct Item {
        int64_t sequence = -1;
        Pose camera;
    };
    std::array<Item, Remembered> sent;
    Item newest;
    Pose to_scene;
    bool placed = false;
};

}  // namespace worldbridge
