// The messages between client and server, protocol version 2 (docs/protocol.md).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "MessagePack.h"

namespace worldbridge {

inline constexpr int ProtocolVersion = 2;
inline constexpr size_t MaxServerMessage = 8388608;  // bytes
inline constexpr size_t MaxPart = 262144;            // bytes of data in one prompt_frame
inline constexpr int64_t MaxObservedPixels = 640 * 384;
inline constexpr size_t MaxKeys = 16;
inline constexpr size_t StatesPerInput = 4;

// The one error of the client: of the server, of the protocol, of the connection.
struct Error {
    std::string code, message, expected, got, remedy, path;
    bool fatal = true;
};

struct Pose {
    std::array<double, 3> position{0, 0, 0};        // metres, +Y up, -Z forward
    std::array<double, 4> orientation{0, 0, 0, 1};  // unit quaternion x, y, z, w, camera to world
    double fov_y = 50;                              // vertical field of view, degrees
};

struct ControllerState {
    int64_t sequence = 0;
    double time = 0;  // client time, ms
    std::array<double, 4> axes{0, 0, 0, 0};
    uint32_t buttons = 0;
    std::vector<std::string> keys;
    std::array<double, 2> pointer{0, 0};
    std::optional<Pose> camera;
};

struct Hello {
    std::string client;
    std::string role = "player";
    std::vector<std::string> transports{"websocket"};
    std::vector<std::string> codecs{"jpeg"};
    std::optional<std::string> token, resume, session, world;
    std::optional<std::array<int64_t, 2>> max_frame;
    bool depth = false;
    bool wait = false;  // in the queue, if every seat is taken
};

struct Start {
    std::optional<std::string> theme;
    std::optional<int64_t> seed;
    std::optional<std::string> prompt;
    std::optional<int64_t> prompt_frames;
};

struct PromptFrame {
    int64_t index = 0, count = 1, part = 0, parts = 1;
    ByteView data;
};

struct FrameShown {
    int64_t frame = 0;
    double received = 0, shown = 0;
    std::optional<double> offset, refresh;
};

// A frame that the engine rendered, for worlds with the conditioning `observations`.
struct Observation {
    Pose camera;
    int64_t width = 0, height = 0;  // pixels; at most MaxObservedPixels in all
    ByteView rgb;                   // uint8 [height, width, 3], the upper row first
    ByteView depth;                 // uint16, little-endian, [height, width]; 0: nothing there, the world draws
    double depth_scale = 0.001;     // metres per unit, along the camera's axis
    bool fresh = false;             // the world forgets first what it has drawn
};

Bytes Encode(const Hello& message);
Bytes Encode(const Start& message);
Bytes Encode(const PromptFrame& message);
Bytes Encode(const FrameShown& message);
Bytes Encode(const Observation& message);
// `states` newest first; at most StatesPerInput.
void EncodeInput(const std::vector<ControllerState>& states, Bytes& out);
Bytes EncodePing(double time);
Bytes EncodeOffer(std::string_view sdp);
// `keep`: the session can be resumed.
Bytes EncodeBye(bool keep = false);
// A message without fields: stats, request_control, hand_over.
Bytes EncodeBare(std::string_view type);

struct ControlSpec {
    std::string name, kind;
    std::array<double, 2> range{-1, 1};
    std::vector<std::string> low_keys, high_keys;
    std::optional<int64_t> default_axis;
    bool inverted = false;
};

struct WorldSpec {
    std::string name, title, kind;
    int64_t width = 0, height = 0;
    double fps = 0;
    std::vector<std::string> themes, conditionings;
    std::vector<ControlSpec> action_schema;
    int64_t max_prompt_frames = 0;
    bool depth = false;
};

struct Welcome {
    std::string server, session, resume, role, seat, transport, codec;
    WorldSpec world;
    std::optional<int64_t> position;  // in the queue for a seat
    bool started = false;
};

struct Status {
    std::string state, detail;
    std::optional<double> progress;
    std::optional<int64_t> position;
};

struct FrameHeader {
    int64_t frame = 0, input_sequence = -1, width = 0, height = 0, dropped = 0, batch = 1;
    double input_time = 0, t_input = 0, t_controls = 0, t_tokens = 0, t_frame = 0, t_gateway = 0,
           t_encoded = 0, t_sent = 0;
    Pose camera;
    std::optional<int64_t> rtp;
};

struct Frame {
    FrameHeader header;
    std::optional<ByteView> image, depth;  // both point into the message
    std::string codec;
    double depth_scale = 0;
};

struct ServerMessage {
    enum class Type : uint8_t { Welcome, Status, Frame, Event, Error, Pong, Answer, Stats };
    Type type = Type::Stats;
    Welcome welcome;
    Status status;
    Frame frame;
    Error error;
    std::string text, detail;        // name and detail of an event; sdp of an answer
    double time = 0, server_time = 0;  // of a pong
};

enum class Direction : uint8_t { Client, Server };

// Check that `data` is one message of this direction; `value` holds its fields, with views into
// `data`. Returns the error, or nothing.
std::optional<Error> Validate(Direction direction, const uint8_t* data, size_t size, Value& value);

// Decode a message of the server. Views in `message` point into `data`. Returns the error, or nothing.
std::optional<Error> DecodeServer(const uint8_t* data, size_t size, ServerMessage& message);

}  // namespace worldbridge
