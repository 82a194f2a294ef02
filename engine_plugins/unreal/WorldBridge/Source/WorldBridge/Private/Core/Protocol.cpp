#include "Protocol.h"

#include <cmath>
#include <utility>

namespace worldbridge {
namespace {

// -- what a message may hold: one table, in the words of docs/protocol.md --------------------------

struct Record;

struct Field {
    enum class Kind : uint8_t { Bool, Integer, Float, String, Binary, Choice, Record, Anything };

    const char* name;
    Kind kind;
    double low = -HUGE_VAL, high = HUGE_VAL;  // numbers; of strings and bytes `high` is the length
    const char* choices = nullptr;            // "a|b|c"
    const Record* record = nullptr;
    int fewest = -1, most = -1;  // items; -1: not a list
    bool required = true, nullable = false, even = false, above_low = false;

    constexpr Field Or() const {  // may be absent
        Field f = *this;
        f.required = false;
        return f;
    }
    constexpr Field OrNil() const {  // may be absent or nil
        Field f = Or();
        f.nullable = true;
        return f;
    }
    constexpr Field List(int least, int largest) const {
        Field f = *this;
        f.fewest = least;
        f.most = largest;
        return f;
    }
    constexpr Field Even() const {
        Field f = *this;
        f.even = true;
        return f;
    }
    constexpr Field AboveLow() const {
        Field f = *this;
        f.above_low = true;
        return f;
    }
};

struct Record {
    const char* name;  // `type` of a message
    const Field* fields;
    size_t count;
    const char* (*rule)(const Value& map) = nullptr;  // what is expected of all fields together
};

constexpr Field Int(const char* name, double low = 0, double high = double(MaxInteger)) {
    return {name, Field::Kind::Integer, low, high};
}
constexpr Field Real(const char* name, double low, double high) {
    return {name, Field::Kind::Float, low, high};
}
constexpr Field Ms(const char* name) { return Real(name, -1e15, 1e15); }
constexpr Field Str(const char* name, int most) { return {name, Field::Kind::String, 0, double(most)}; }
constexpr Field Flag(const char* name) { return {name, Field::Kind::Bool}; }
constexpr Field Bin(const char* name, double most) { return {name, Field::Kind::Binary, 0, most}; }
constexpr Field One(const char* name, const char* choices) {
    return {name, Field::Kind::Choice, 0, 0, choices};
}
constexpr Field Sub(const char* name, const Record& record) {
    return {name, Field::Kind::Record, 0, 0, nullptr, &record};
}
constexpr Field Anything(const char* name) { return {name, Field::Kind::Anything}; }

template <size_t N>
constexpr Record Of(const char* name, const Field (&fields)[N], const char* (*rule)(const Value&) = nullptr) {
    return {name, fields, N, rule};
}

int64_t IntOf(const Value& map, const char* name, int64_t absent) {
    const Value* v = map.Find(name);
    return v != nullptr && v->kind == Value::Kind::Integer ? v->integer : absent;
}

const char* UnitQuaternion(const Value& map) {
    const Value* v = map.Find("orientation");
    if (v == nullptr) return nullptr;
    double sum = 0;
    for (const Value& item : v->items) sum += item.Number() * item.Number();
    return sum >= 0.98 && sum <= 1.02 ? nullptr : "a camera whose orientation is a unit quaternion (x, y, z, w)";
}

const char* PartsInOrder(const Value& map) {
    const bool good = IntOf(map, "index", 0) < IntOf(map, "count", 0) && IntOf(map, "part", 0) < IntOf(map, "parts", 0);
    return good ? nullptr : "`index` below `count` and `part` below `parts`";
}

const char* PartInOrder(const Value& map) {
    return IntOf(map, "part", 0) < IntOf(map, "parts", 0) ? nullptr : "`part` below `parts`";
}

const char* Version2(const Value& map) {
    return IntOf(map, "version", ProtocolVersion) == ProtocolVersion ? nullptr : "`version` 2";
}

constexpr const char* Roles = "engine|player|spectator";
constexpr const char* Codecs = "h264|vp8|jpeg|rgb|bgra|i420";

constexpr Field PoseFields[] = {
    Real("position", -1e6, 1e6).List(3, 3).Or(), Real("orientation", -1.01, 1.01).List(4, 4).Or(), Real("fov_y", 1, 179).Or()};
constexpr Record PoseRecord = Of("", PoseFields, UnitQuaternion);

constexpr Field StateFields[] = {
    Int("sequence"), Ms("time"), Real("axes", -1, 1).List(4, 4).Or(), Int("buttons", 0, 131071).Or(),
    Str("keys", 24).List(0, 16).Or(), Real("pointer", -1e12, 1e12).List(2, 2).Or(), Sub("camera", PoseRecord).OrNil()};
constexpr Record StateRecord = Of("", StateFields);

constexpr Field HelloFields[] = {
    Str("client", 64).Or(), One("role", Roles).Or(), Str("transports", 64).List(0, 8).Or(), Str("codecs", 64).List(0, 8).Or(),
    Str("token", 256).OrNil(), Str("resume", 256).OrNil(), Str("session", 64).OrNil(), Str("world", 64).OrNil(),
    Int("max_frame", 1, 8192).List(2, 2).OrNil(), Flag("depth").Or(), Flag("wait").Or(), Int("version").Or()};
constexpr Field ByeFields[] = {Flag("keep").Or()};
constexpr Field PromptFrameFields[] = {
    Int("index", 0, 8), Int("count", 1, 9), Int("part", 0, 31), Int("parts", 1, 32), Bin("data", double(MaxPart))};
constexpr Field PromptDepthFields[] = {
    Int("part", 0, 31), Int("parts", 1, 32), Real("scale", 1e-6, 10), Bin("data", double(MaxPart))};
constexpr Field StartFields[] = {
    Str("theme", 64).OrNil(), Int("seed").OrNil(), Str("prompt", 2000).OrNil(), Int("prompt_frames", 0, 9).OrNil()};
constexpr Field InputFields[] = {Sub("states", StateRecord).List(1, 4)};
constexpr Field PingFields[] = {Ms("time")};
constexpr Field SdpFields[] = {Str("sdp", 60000)};
constexpr Field FrameShownFields[] = {
    Int("frame"), Ms("received"), Ms("shown"), Ms("offset").OrNil(), Real("refresh", 1, 1000).OrNil()};
constexpr Field CreditFields[] = {Int("frames", 1, 8)};
constexpr Field ObservationFields[] = {
    Sub("camera", PoseRecord), Int("width", 1, 8192), Int("height", 1, 8192), Bin("rgb", 737280), Bin("depth", 491520),
    Real("depth_scale", 1e-6, 10), Flag("fresh").Or()};
constexpr Record ObservationRecord = Of("", ObservationFields);
constexpr Field ObserveFields[] = {Sub("observation", ObservationRecord)};
constexpr Record ClientRecords[] = {
    Of("hello", HelloFields), Of("prompt_frame", PromptFrameFields, PartsInOrder), Of("prompt_depth", PromptDepthFields, PartInOrder), Of("start", StartFields),
    Of("input", InputFields), Of("ping", PingFields), Of("offer", SdpFields), Of("frame_shown", FrameShownFields),
    Of("credit", CreditFields), Of("observe", ObserveFields), {"stats", nullptr, 0}, {"request_control", nullptr, 0}, {"hand_over", nullptr, 0},
    Of("bye", ByeFields)};

constexpr Field ControlFields[] = {
    Str("name", 64), One("kind", "axis|button|look"), Real("range", -HUGE_VAL, HUGE_VAL).List(2, 2).Or(),
    Str("low_keys", 64).List(0, 8).Or(), Str("high_keys", 64).List(0, 8).Or(), Int("default_axis", 0, 3).OrNil(),
    Flag("inverted").Or()};
constexpr Record ControlRecord = Of("", ControlFields);
constexpr Field WorldFields[] = {
    Str("name", 64), Str("title", 2000), Int("width", 2, 8192).Even(), Int("height", 2, 8192).Even(), Real("fps", 0.1, 1000),
    Int("frames_per_latent", 1, 64), Str("themes", 64).List(0, 256), Sub("action_schema", ControlRecord).List(0, 64),
    Int("context_latents", 0, 1000000), One("kind", "autoregressive|procedural"), Int("max_prompt_frames", 0, 9).Or(),
    Str("conditionings", 64).List(0, 16).Or(), Flag("depth").Or()};
constexpr Record WorldRecord = Of("", WorldFields);
constexpr Field SeatFields[] = {
    One("state", "queued|seated|watching"), Int("position").OrNil(), Real("expected_wait_s", -HUGE_VAL, HUGE_VAL).OrNil()};
constexpr Record SeatRecord = Of("", SeatFields);
constexpr Field SeatsFields[] = {Int("used"), Int("total")};
constexpr Record SeatsRecord = Of("", SeatsFields);
constexpr Field IceFields[] = {Str("urls", 2000).List(0, 8), Str("username", 2000).OrNil(), Str("credential", 2000).OrNil()};
constexpr Record IceRecord = Of("", IceFields);
constexpr Field WelcomeFields[] = {
    Str("server", 64), Str("session", 64), Str("resume", 256), One("role", Roles), Sub("world", WorldRecord),
    Sub("seat", SeatRecord), Sub("seats", SeatsRecord), One("transport", "webrtc|websocket|zeromq"), One("codec", Codecs),
    Flag("started").Or(), Sub("ice_servers", IceRecord).List(0, 8).Or(), Real("kept_s", -HUGE_VAL, HUGE_VAL).OrNil(),
    Int("version").Or()};
constexpr Field StatusFields[] = {
    One("state", "loading|playing|queued|ready|reconnecting"), Str("detail", 2000).Or(), Real("progress", 0, 1).OrNil(),
    Int("position").OrNil(), Real("expected_wait_s", -HUGE_VAL, HUGE_VAL).OrNil()};
constexpr Field HeaderFields[] = {
    Int("frame"), Int("input_sequence", -1), Ms("input_time"), Ms("t_input"), Ms("t_controls"), Ms("t_tokens"), Ms("t_frame"),
    Sub("camera", PoseRecord), Ms("t_gateway").Or(), Ms("t_encoded").Or(), Ms("t_sent").Or(), Int("width", 0, 8192).Or(),
    Int("height", 0, 8192).Or(), Int("rtp", 0, 4294967295.0).OrNil(), Int("dropped").Or(), Int("batch", 1).Or()};
constexpr Record HeaderRecord = Of("", HeaderFields);
constexpr Field FrameFields[] = {
    Sub("header", HeaderRecord), Bin("image", double(MaxServerMessage)).OrNil(), One("codec", Codecs).OrNil(),
    Bin("depth", double(MaxServerMessage)).OrNil(), Real("depth_scale", 0, 1e6).AboveLow().OrNil()};
constexpr Field EventFields[] = {
    One("name", "control_requested|seat_warning|session_resumed|world_lost|world_reset|world_restored"), Str("detail", 2000).Or(),
    Real("seconds", -HUGE_VAL, HUGE_VAL).OrNil(), Int("frames").OrNil()};
constexpr Field ErrorFields[] = {
    Str("code", 64), Str("message", 2000), Str("expected", 2000).Or(), Str("got", 2000).Or(), Str("remedy", 2000).Or(),
    Str("path", 2000).Or(), Flag("fatal").Or()};
constexpr Field PongFields[] = {Ms("time"), Ms("server_time")};
constexpr Field StatsFields[] = {Anything("values").Or()};
constexpr Record ServerRecords[] = {
    Of("welcome", WelcomeFields, Version2), Of("status", StatusFields), Of("frame", FrameFields), Of("event", EventFields),
    Of("error", ErrorFields), Of("pong", PongFields), Of("answer", SdpFields), Of("stats", StatsFields)};

// -- checking a message against the table ----------------------------------------------------------

std::string Shown(const Value& v) {
    switch (v.kind) {
        case Value::Kind::Nil: return "nil";
        case Value::Kind::Bool: return v.boolean ? "true" : "false";
        case Value::Kind::Integer: return std::to_string(v.integer);
        case Value::Kind::Float: return std::to_string(v.number);
        case Value::Kind::String: {
            size_t n = v.text.size() < 80 ? v.text.size() : 80;
            while (n < v.text.size() && n > 0 && (uint8_t(v.text[n]) & 0xc0) == 0x80) --n;  // a whole character
            return "\"" + std::string(v.text.substr(0, n)) + (n < v.text.size() ? "...\"" : "\"");
        }
        case Value::Kind::Binary: return std::to_string(v.binary.size) + " bytes";
        case Value::Kind::Array: return "a list of " + std::to_string(v.items.size());
        case Value::Kind::Map: return "a map of " + std::to_string(v.items.size() / 2);
    }
    return "";
}

std::string Plain(double v) {
    std::string text = v == std::floor(v) && std::fabs(v) < 1e16 ? std::to_string(int64_t(v)) : std::to_string(v);
    return text;
}

size_t Characters(std::string_view text) {
    size_t n = 0;
    for (char c : text) n += (uint8_t(c) & 0xc0) != 0x80;
    return n;
}

bool IsChoice(std::string_view choices, std::string_view text) {
    for (size_t at = 0; at <= choices.size();) {
        const size_t end = choices.find('|', at) == std::string_view::npos ? choices.size() : choices.find('|', at);
        if (choices.substr(at, end - at) == text) return true;
        at = end + 1;
    }
    return false;
}

class Checker {
public:
    std::string path, expected, got;

    bool Map(const Record& record, const Value& map, std::string_view skip = {}) {
        if (map.kind != Value::Kind::Map) return Fail("a map", map);
        for (size_t i = 0; i < map.items.size(); i += 2) {
            if (map.items[i].text == skip && !skip.empty()) continue;
            const Field* field = FieldOf(record, map.items[i].text);
            if (field == nullptr) continue;  // unknown fields are skipped
            const size_t before = Enter(field->name);
            if (!Whole(*field, map.items[i + 1])) return false;
            path.resize(before);
        }
        for (size_t i = 0; i < record.count; ++i) {
            if (!record.fields[i].required || map.Find(record.fields[i].name) != nullptr) continue;
            Enter(record.fields[i].name);
            expected = "a value";
            got = "nothing";
            return false;
        }
        const char* broken = record.rule != nullptr ? record.rule(map) : nullptr;
        return broken == nullptr || Fail(broken, map);
    }

private:
    size_t Enter(const char* name) {
        const size_t before = path.size();
        path += std::string(".") + name;
        return before;
    }

    bool Fail(std::string what, const Value& value) {
        expected = std::move(what);
        got = Shown(value);
        return false;
    }

    static const Field* FieldOf(const Record& record, std::string_view name) {
        for (size_t i = 0; i < record.count; ++i)
            if (name == record.fields[i].name) return &record.fields[i];
        return nullptr;
    }

    bool Whole(const Field& field, const Value& value) {
        if (value.kind == Value::Kind::Nil && field.nullable) return true;
        if (field.most < 0) return Single(field, value);
        if (value.kind != Value::Kind::Array) return Fail("a list", value);
        if (int(value.items.size()) < field.fewest || int(value.items.size()) > field.most)
            return Fail("a list of " + std::to_string(field.fewest) + " to " + std::to_string(field.most), value);
        for (size_t i = 0; i < value.items.size(); ++i) {
            const size_t before = path.size();
            path += "[" + std::to_string(i) + "]";
            if (!Single(field, value.items[i])) return false;
            path.resize(before);
        }
        return true;
    }

    bool Single(const Field& field, const Value& value) {
        switch (field.kind) {
            case Field::Kind::Bool: return value.kind == Value::Kind::Bool || Fail("true or false", value);
            case Field::Kind::Integer: return (value.kind == Value::Kind::Integer && InRange(field, value)) || Fail(Range("an integer", field), value);
            case Field::Kind::Float: return (value.IsNumber() && InRange(field, value)) || Fail(Range("a number", field), value);
            case Field::Kind::String:
                return (value.kind == Value::Kind::String && double(Characters(value.text)) <= field.high) ||
                       Fail("a string of at most " + Plain(field.high), value);
            case Field::Kind::Binary:
                return (value.kind == Value::Kind::Binary && double(value.binary.size) <= field.high) ||
                       Fail("at most " + Plain(field.high) + " bytes", value);
            case Field::Kind::Choice:
                return (value.kind == Value::Kind::String && IsChoice(field.choices, value.text)) ||
                       Fail(std::string("one of ") + field.choices, value);
            case Field::Kind::Record: return Map(*field.record, value);
            case Field::Kind::Anything:
                return (value.kind == Value::Kind::Map && value.items.size() <= 512) || Fail("a map of at most 256", value);
        }
        return false;
    }

    static bool InRange(const Field& field, const Value& value) {
        const double v = value.Number();
        if (!std::isfinite(v) || v < field.low || v > field.high || (field.above_low && v == field.low)) return false;
        return !field.even || value.integer % 2 == 0;
    }

    static std::string Range(const char* what, const Field& field) {
        std::string text = field.even ? "an even integer" : what;
        if (std::isfinite(field.low)) text += " from " + Plain(field.low) + " to " + Plain(field.high);
        return text;
    }
};

Error Malformed(std::string got) {
    return {"bad_message", "the message is not valid MessagePack", "one MessagePack map with string keys", std::move(got),
            "Encode each message as one MessagePack map.", ""};
}

size_t LimitOf(Direction direction, std::string_view type) {
    if (direction == Direction::Server) return MaxServerMessage;
    if (type == "hello" || type == "input") return 4096;
    if (type == "observe") return 1229824;
    return type == "prompt_frame" || type == "prompt_depth" ? 263168 : 65536;
}

const Record* RecordOf(Direction direction, std::string_view type) {
    if (direction == Direction::Client) {
        for (const Record& record : ClientRecords)
            if (type == record.name) return &record;
    } else {
        for (const Record& record : ServerRecords)
            if (type == record.name) return &record;
    }
    return nullptr;
}

// -- reading fields of a checked map ---------------------------------------------------------------

void Get(const Value& map, const char* name, std::string& out) {
    const Value* v = map.Find(name);
    if (v != nullptr && v->kind == Value::Kind::String) out.assign(v->text.data(), v->text.size());
}
void Get(const Value& map, const char* name, int64_t& out) { out = IntOf(map, name, out); }
void Get(const Value& map, const char* name, double& out) {
    const Value* v = map.Find(name);
    if (v != nullptr && v->IsNumber()) out = v->Number();
}
void Get(const Value& map, const char* name, bool& out) {
    const Value* v = map.Find(name);
    if (v != nullptr && v->kind == Value::Kind::Bool) out = v->boolean;
}
void Get(const Value& map, const char* name, std::vector<std::string>& out) {
    const Value* v = map.Find(name);
    if (v == nullptr) return;
    out.clear();
    for (const Value& item : v->items) out.emplace_back(item.text);
}
template <size_t N>
void Get(const Value& map, const char* name, std::array<double, N>& out) {
    const Value* v = map.Find(name);
    for (size_t i = 0; v != nullptr && i < N && i < v->items.size(); ++i) out[i] = v->items[i].Number();
}
void Get(const Value& map, const char* name, ByteView& out) {
    const Value* v = map.Find(name);
    if (v != nullptr && v->kind == Value::Kind::Binary) out = v->binary;
}
template <typename T>
void Get(const Value& map, const char* name, std::optional<T>& out) {
    const Value* v = map.Find(name);
    if (v == nullptr || v->kind == Value::Kind::Nil) return;
    T value{};
    Get(map, name, value);
    out = value;
}

// Read fields: name, target, name, target ...
inline void Read(const Value&) {}
template <typename T, typename... Rest>
void Read(const Value& map, const char* name, T& out, Rest&&... rest) {
    Get(map, name, out);
    Read(map, std::forward<Rest>(rest)...);
}

Pose PoseOf(const Value& map) {
    Pose pose;
    Read(map, "position", pose.position, "orientation", pose.orientation, "fov_y", pose.fov_y);
    return pose;
}

void Fill(const Value& map, WorldSpec& world) {
    Read(map, "name", world.name, "title", world.title, "kind", world.kind, "width", world.width, "height", world.height,
         "fps", world.fps, "themes", world.themes, "conditionings", world.conditionings, "max_prompt_frames",
         world.max_prompt_frames, "depth", world.depth);
    for (const Value& item : map.Find("action_schema")->items) {
        ControlSpec control;
        Read(item, "name", control.name, "kind", control.kind, "range", control.range, "low_keys", control.low_keys,
             "high_keys", control.high_keys, "default_axis", control.default_axis, "inverted", control.inverted);
        world.action_schema.push_back(std::move(control));
    }
}

void Fill(const Value& map, Welcome& welcome) {
    Read(map, "server", welcome.server, "session", welcome.session, "resume", welcome.resume, "role", welcome.role,
         "transport", welcome.transport, "codec", welcome.codec, "started", welcome.started);
    Read(*map.Find("seat"), "state", welcome.seat, "position", welcome.position);
    Fill(*map.Find("world"), welcome.world);
}

void Fill(const Value& map, Frame& frame) {
    const Value& h = *map.Find("header");
    FrameHeader& header = frame.header;
    Read(h, "frame", header.frame, "input_sequence", header.input_sequence, "input_time", header.input_time, "t_input",
         header.t_input, "t_controls", header.t_controls, "t_tokens", header.t_tokens, "t_frame", header.t_frame, "t_gateway",
         header.t_gateway, "t_encoded", header.t_encoded, "t_sent", header.t_sent, "width", header.width, "height",
         header.height, "dropped", header.dropped, "batch", header.batch, "rtp", header.rtp);
    header.camera = PoseOf(*h.Find("camera"));
    Read(map, "image", frame.image, "depth", frame.depth, "codec", frame.codec, "depth_scale", frame.depth_scale);
}

void Fill(const Value& map, Error& error) {
    Read(map, "code", error.code, "message", error.message, "expected", error.expected, "got", error.got, "remedy",
         error.remedy, "path", error.path, "fatal", error.fatal);
}

// -- writing ---------------------------------------------------------------------------------------

void Put(Writer& w, const std::string& v) { w.String(v); }
void Put(Writer& w, std::string_view v) { w.String(v); }
void Put(Writer& w, int64_t v) { w.Integer(v); }
void Put(Writer& w, uint32_t v) { w.Integer(v); }
void Put(Writer& w, double v) { w.Float(v); }
void Put(Writer& w, bool v) { w.Bool(v); }
void Put(Writer& w, ByteView v) { w.Binary(v); }
void Put(Writer& w, const Pose& v);
void Put(Writer& w, const ControllerState& v);
void Put(Writer& w, const Observation& v);
template <typename T>
void Put(Writer& w, const std::vector<T>& v) {
    w.Array(v.size());
    for (const T& item : v) Put(w, item);
}
template <typename T, size_t N>
void Put(Writer& w, const std::array<T, N>& v) {
    w.Array(N);
    for (const T& item : v) Put(w, item);
}
template <typename T>
void Put(Writer& w, const std::optional<T>& v) {
    if (v) Put(w, *v);
    else w.Nil();
}

// Write a map: name, value, name, value ...
inline void WriteFields(Writer&) {}
template <typename T, typename... Rest>
void WriteFields(Writer& w, const char* name, const T& value, const Rest&... rest) {
    w.String(name);
    Put(w, value);
    WriteFields(w, rest...);
}
template <typename... Rest>
void WriteMap(Writer& w, const Rest&... fields) {
    w.Map(sizeof...(fields) / 2);
    WriteFields(w, fields...);
}

void Put(Writer& w, const Pose& v) { WriteMap(w, "position", v.position, "orientation", v.orientation, "fov_y", v.fov_y); }
void Put(Writer& w, const ControllerState& v) {
    WriteMap(w, "sequence", v.sequence, "time", v.time, "axes", v.axes, "buttons", v.buttons, "keys", v.keys, "pointer",
             v.pointer, "camera", v.camera);
}
void Put(Writer& w, const Observation& v) {
    WriteMap(w, "camera", v.camera, "width", v.width, "height", v.height, "rgb", v.rgb, "depth", v.depth, "depth_scale",
             v.depth_scale, "fresh", v.fresh);
}

template <typename... Rest>
Bytes Message(std::string_view type, const Rest&... fields) {
    Bytes out;
    Writer w(out);
    WriteMap(w, "type", type, fields...);
    return out;
}

}  // namespace

std::optional<Error> Validate(Direction direction, const uint8_t* data, size_t size, Value& value) {
    value = Value();
    const size_t longest = direction == Direction::Server ? MaxServerMessage : 263168;
    if (size > longest)
        return Error{"message_too_large", "the message is too large", "at most " + std::to_string(longest) + " bytes",
                     std::to_string(size) + " bytes", "Send smaller messages; prompt frames travel in parts.", ""};
    if (const char* fault = ReadValue(data, size, value)) return Malformed(fault);
    if (value.kind != Value::Kind::Map) return Malformed(Shown(value));
    const Value* type = value.Find("type");
    const std::string name = type != nullptr && type->kind == Value::Kind::String ? std::string(type->text) : "";
    const Record* record = RecordOf(direction, name);
    if (record == nullptr)
        return Error{"unknown_type", "the message has an unknown type", "a type of docs/protocol.md",
                     type != nullptr ? Shown(*type) : "nothing", "Check the `type` field against docs/protocol.md.", "type"};
    if (size > LimitOf(direction, name))
        return Error{"message_too_large", "the message is too large",
                     "at most " + std::to_string(LimitOf(direction, name)) + " bytes for " + name, std::to_string(size) + " bytes",
                     "Send smaller messages; prompt frames travel in parts.", name};
    const Value* version = value.Find("version");
    if (name == "hello" && version != nullptr && !(version->kind == Value::Kind::Integer && version->integer == ProtocolVersion))
        return Error{"version_mismatch", "client and server speak different versions of the protocol", "version 2",
                     "version " + Shown(*version), "Update the older of the two.", "hello.version"};
    Checker checker;
    checker.path = name;
    if (checker.Map(*record, value, "type")) return std::nullopt;
    const char* code = direction != Direction::Client ? "bad_message"
                       : name == "input" || name == "observe" ? "invalid_input"
                       : name == "prompt_frame" || name == "prompt_depth" ? "bad_prompt_frame"
                                                      : "bad_message";
    return Error{code, "the field `" + checker.path + "` is not valid", checker.expected, checker.got,
                 "Correct `" + checker.path + "`; docs/protocol.md lists every field.", checker.path};
}

std::optional<Error> DecodeServer(const uint8_t* data, size_t size, ServerMessage& message) {
    message = ServerMessage();
    Value map;
    if (auto error = Validate(Direction::Server, data, size, map)) return error;
    const std::string_view type = map.Find("type")->text;
    using Type = ServerMessage::Type;
    if (type == "welcome") {
        message.type = Type::Welcome;
        Fill(map, message.welcome);
    } else if (type == "status") {
        message.type = Type::Status;
        Status& status = message.status;
        Read(map, "state", status.state, "detail", status.detail, "progress", status.progress, "position", status.position);
    } else if (type == "frame") {
        message.type = Type::Frame;
        Fill(map, message.frame);
    } else if (type == "event") {
        message.type = Type::Event;
        Read(map, "name", message.text, "detail", message.detail);
    } else if (type == "error") {
        message.type = Type::Error;
        Fill(map, message.error);
    } else if (type == "pong") {
        message.type = Type::Pong;
        Read(map, "time", message.time, "server_time", message.server_time);
    } else if (type == "answer") {
        message.type = Type::Answer;
        Read(map, "sdp", message.text);
    }
    return std::nullopt;
}

Bytes Encode(const Hello& m) {
    return Message("hello", "client", m.client, "role", m.role, "transports", m.transports, "codecs", m.codecs, "token", m.token,
                   "resume", m.resume, "session", m.session, "world", m.world, "max_frame", m.max_frame, "depth", m.depth,
                   "wait", m.wait, "version", int64_t(ProtocolVersion));
}

Bytes Encode(const Start& m) {
    return Message("start", "theme", m.theme, "seed", m.seed, "prompt", m.prompt, "prompt_frames", m.prompt_frames);
}

Bytes Encode(const PromptFrame& m) {
    return Message("prompt_frame", "index", m.index, "count", m.count, "part", m.part, "parts", m.parts, "data", m.data);
}

Bytes Encode(const FrameShown& m) {
    return Message("frame_shown", "frame", m.frame, "received", m.received, "shown", m.shown, "offset", m.offset, "refresh",
                   m.refresh);
}

Bytes Encode(const Observation& m) { return Message("observe", "observation", m); }

void EncodeInput(const std::vector<ControllerState>& states, Bytes& out) {
    out.clear();
    Writer w(out);
    WriteMap(w, "type", std::string_view("input"), "states", states);
}

Bytes EncodePing(double time) { return Message("ping", "time", time); }
Bytes EncodeOffer(std::string_view sdp) { return Message("offer", "sdp", sdp); }
Bytes EncodeBye(bool keep) { return keep ? Message("bye", "keep", true) : Message("bye"); }
Bytes EncodeBare(std::string_view type) { return Message(type); }

}  // namespace worldbridge
