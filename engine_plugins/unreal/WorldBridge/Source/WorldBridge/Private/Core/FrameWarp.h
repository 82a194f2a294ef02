// Reprojects the newest frame to the camera of this refresh of the display, so that looking around and
// walking respond at the display's rate whatever the world's. Shaders/WorldBackdrop.ush evaluates it per
// pixel. In the axes of Unreal's cameras: X forward, Y right, Z up, centimetres.
#pragma once

#include "Coordinates.h"
#include "WorldOrigin.h"

namespace worldbridge {

using Matrix3 = std::array<std::array<double, 3>, 3>;  // rows

struct FrameWarp {
    // From rays of the display's camera to the frame's. Without depth it is all there is to know.
    Matrix3 to_frame{{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
    // Where the display's camera stands, seen from the frame's: with depth, what is `depth` ahead along
    // a ray of the display's camera is at to_frame * ray * depth + origin.
    std::array<double, 3> origin{0, 0, 0};
    // Of half the fields of view: horizontal, vertical.
    std::array<double, 2> frame_tangents{1, 1}, display_tangents{1, 1};
};

// Tangents of half the fields of view, horizontal and vertical. `aspect` is width / height.
inline std::array<double, 2> Tangents(double fov_x, double aspect) {
    constexpr double Radians = 0.017453292519943295;
    const double horizontal = std::tan(fov_x * Radians / 2);
    return {horizontal, horizontal / aspect};
}

// The matrix that maps a ray of the display's camera, (1, y, z), into the frame's camera.
inline Matrix3 RotationHomography(const UnrealPose& frame, const UnrealPose& display) {
    const double* f = frame.rotation;
    const double* d = display.rotation;
    Matrix3 out{};
    for (size_t column = 0; column < 3; ++column) {
        std::array<double, 3> axis{0, 0, 0};
        axis[column] = 1;
        const auto turned = Turn({-f[0], -f[1], -f[2], f[3]}, Turn({d[0], d[1], d[2], d[3]}, axis));
        for (size_t row = 0; row < 3; ++row) out[row][column] = turned[row];
    }
    return out;
}

// Both poses in the same coordinates, such as the level's.
inline FrameWarp Aim(const UnrealPose& frame, double frame_aspect, const UnrealPose& display, double display_aspect) {
    const double* f = frame.rotation;
    FrameWarp warp;
    warp.to_frame = RotationHomography(frame, display);
    warp.origin = Turn({-f[0], -f[1], -f[2], f[3]},
                       {display.position[0] - frame.position[0], display.position[1] - frame.position[1],
                        display.position[2] - frame.position[2]});
    warp.frame_tangents = Tangents(frame.fov_x, frame_aspect);
    warp.display_tangents = Tangents(display.fov_x, display_aspect);
    return warp;
}

}  // namespace worldbridge
