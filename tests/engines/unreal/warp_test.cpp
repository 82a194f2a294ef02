// Runs the code of the material's Custom node, Shaders/WorldBackdrop.ush, as C++ with Core/FrameWarp.h.
// The file is named by SHADER when it is compiled. Standard input, binary: int32 width, height, count of
// cameras; float64 DepthScale, aspect, LevelDepth; the frame's camera (position, orientation x, y, z, w,
// fov_y of the protocol); uint8 [H, W, 3] and uint16 [H, W] of the frame; then the display's cameras.
// Standard output: uint8 [H, W, 3] of each. LevelColor is magenta.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "FrameWarp.h"

namespace {

struct float2 {
    float x, y;
    float2(float a, float b) : x(a), y(b) {}
    float2 operator+(float2 o) const { return {x + o.x, y + o.y}; }
    float2 operator*(float s) const { return {x * s, y * s}; }
};
struct float3 {
    float x, y, z;
    float3(float a, float b, float c) : x(a), y(b), z(c) {}
    float3 operator+(float3 o) const { return {x + o.x, y + o.y, z + o.z}; }
    float3 operator*(float s) const { return {x * s, y * s, z * s}; }
};
struct float4 {
    float x, y, z, w;
};
struct Texel {
    float r;
    float3 rgb;
};
float max(float a, float b) { return a > b ? a : b; }
float min(float a, float b) { return a < b ? a : b; }
float lerp(float a, float b, float t) { return a + (b - a) * t; }
float dot(float3 a, float3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
float2 saturate(float2 v) { return {min(max(v.x, 0), 1), min(max(v.y, 0), 1)}; }

struct Texture2D {
    int width, height;
    const uint8_t* rgb;
    const uint16_t* depth;
};
enum SamplerState { Nearest_, Bilinear_ };
float3 Pixel(const Texture2D& from, int x, int y) {
    const uint8_t* p = from.rgb + 3 * (std::max(0, std::min(y, from.height - 1)) * from.width + std::max(0, std::min(x, from.width - 1)));
    return {float(p[0]), float(p[1]), float(p[2])};
}
Texel Texture2DSampleLevel(const Texture2D& from, SamplerState sampler, float2 uv, int) {
    const float x = uv.x * float(from.width), y = uv.y * float(from.height);
    if (sampler == Nearest_) {
        const int column = std::min(int(x), from.width - 1), row = std::min(int(y), from.height - 1);
        return {float(from.depth[row * from.width + column]) / 65535, {0, 0, 0}};
    }
    const int column = int(std::floor(x - 0.5f)), row = int(std::floor(y - 0.5f));
    const float a = x - 0.5f - float(column), b = y - 0.5f - float(row);
    const float3 upper = Pixel(from, column, row) * (1 - a) + Pixel(from, column + 1, row) * a;
    const float3 lower = Pixel(from, column, row + 1) * (1 - a) + Pixel(from, column + 1, row + 1) * a;
    return {0, upper * (1 - b) + lower * b};
}

#define LOOP
float3 CustomExpression(float2 UV, Texel LevelColor, float LevelDepth, const Texture2D& Frame, SamplerState FrameSampler,
                        const Texture2D& Depth, SamplerState DepthSampler, float4 ToFrameX, float4 ToFrameY, float4 ToFrameZ,
                        float4 Tangents, float DepthScale, float Recede) {
#include SHADER
}

template <typename T>
std::vector<T> Read(size_t count) {
    std::vector<T> out(count);
    if (std::fread(out.data(), sizeof(T), count, stdin) != count) std::exit(1);
    return out;
}

worldbridge::UnrealPose ReadCamera(double aspect) {
    const auto v = Read<double>(8);
    return worldbridge::ToUnreal({{v[0], v[1], v[2]}, {v[3], v[4], v[5], v[6]}, v[7]}, aspect);
}

}  // namespace

int main() {
    const auto size = Read<int32_t>(3);
    const int width = size[0], height = size[1];
    const auto given = Read<double>(3);
    const worldbridge::UnrealPose frame = ReadCamera(given[1]);
    const auto rgb = Read<uint8_t>(size_t(width * height) * 3);
    const auto depth = Read<uint16_t>(size_t(width * height));
    const Texture2D texture{width, height, rgb.data(), depth.data()};
    for (int i = 0; i < size[2]; ++i) {
        const auto warp = worldbridge::Aim(frame, given[1], ReadCamera(given[1]), given[1]);
        const auto row = [&](size_t r) {
            const auto& way = warp.to_frame[r];
            return float4{float(way[0]), float(way[1]), float(way[2]), float(warp.origin[r])};
        };
        const float4 tangents{float(warp.frame_tangents[0]), float(warp.frame_tangents[1]), float(warp.display_tangents[0]),
                              float(warp.display_tangents[1])};
        for (int y = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x) {
                const float2 uv((float(x) + 0.5f) / float(width), (float(y) + 0.5f) / float(height));
                const float3 color = CustomExpression(uv, {0, {255, 0, 255}}, float(given[2]), texture, Bilinear_, texture, Nearest_,
                                                      row(0), row(1), row(2), tangents, float(given[0]), 0);
                for (const float v : {color.x, color.y, color.z}) std::putchar(int(v + 0.5f));
            }
        }
    }
    return 0;
}
