// Unreal's coordinates (left-handed, X forward, Y right, Z up, centimetres) and the protocol's
// (right-handed, Y up, -Z forward, metres). Poses are converted here and nowhere else.
#pragma once

#include <cmath>

#include "Protocol.h"

namespace worldbridge {

// A camera in Unreal's axes: centimetres, quaternion x, y, z, w, horizontal field of view in degrees.
struct UnrealPose {
    double position[3] = {0, 0, 0};
    double rotation[4] = {0, 0, 0, 1};
    double fov_x = 90;
};

inline double VerticalFieldOfView(double fov_x, double aspect) {
    constexpr double Radians = 0.017453292519943295;
    return 2 * std::atan(std::tan(fov_x * Radians / 2) / aspect) / Radians;
}

inline double HorizontalFieldOfView(double fov_y, double aspect) {
    return VerticalFieldOfView(fov_y, 1 / aspect);
}

// `aspect` is width / height of the image. The field of view is limited to 1..179.
inline Pose ToProtocol(const UnrealPose& from, double aspect) {
    const double* p = from.position;
    const double* q = from.rotation;
    Pose pose;
    pose.position = {p[1] / 100, p[2] / 100, -p[0] / 100};
    pose.orientation = {-q[1], -q[2], q[0], q[3]};
    pose.fov_y = std::fmin(179, std::fmax(1, VerticalFieldOfView(from.fov_x, aspect)));
    return pose;
}

inline UnrealPose ToUnreal(const Pose& from, double aspect) {
    const auto& p = from.position;
    const auto& q = from.orientation;
    UnrealPose pose;
    pose.position[0] = -p[2] * 100, pose.position[1] = p[0] * 100, pose.position[2] = p[1] * 100;
    pose.rotation[0] = q[2], pose.rotation[1] = -q[0], pose.rotation[2] = -q[1], pose.rotation[3] = q[3];
    pose.fov_x = HorizontalFieldOfView(from.fov_y, aspect);
    return pose;
}

}  // namespace worldbridge
