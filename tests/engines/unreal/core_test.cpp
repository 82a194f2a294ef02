// The engine-free core on the command line: one verb each, driven by test_core.py.
//   messages       lines "direction file": prints "ok" or "code path" for each
//   encode FOLDER  encodes typed messages and compares them with the example messages
//   gamepads       lines of four axes and button numbers: prints the input message as hex
//   poses          lines of a pose: prints it in Unreal's axes, and whether it came back the same
//   warps          lines of a frame's pose and aspect and the display's: prints the warp
//   unit           everything else; exits with 1 at the first failure
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "Client.h"
#include "Coordinates.h"
#include "FrameWarp.h"

using namespace worldbridge;

namespace {

#define EXPECT(condition)                                                             \
    do {                                                                              \
        if (!(condition)) {                                                           \
            std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);     \
            std::exit(1);                                                             \
        }                                                                             \
    } while (false)

Bytes Load(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT(file.good());
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

int Messages() {
    std::string direction, path;
    while (std::cin >> direction >> path) {
        const Bytes data = Load(path);
        Value value;
        const auto error = Validate(direction == "client" ? Direction::Client : Direction::Server, data.data(), data.size(), value);
        if (error) {
            EXPECT(!error->message.empty() && !error->expected.empty() && !error->got.empty() && !error->remedy.empty());
            std::printf("%s %s\n", error->code.c_str(), error->path.c_str());
            continue;
        }
        Bytes again;
        Writer(again).Any(value);
        EXPECT(again == data);
        ServerMessage message;
        if (direction == "server") EXPECT(!DecodeServer(data.data(), data.size(), message));
        std::printf("ok\n");
    }
    return 0;
}

int Encodings(const std::string& folder) {
    const auto same = [&](const char* name, const Bytes& bytes) {
        if (bytes == Load(folder + "/client_" + name + ".msgpack")) return;
        std::printf("client_%s is encoded in another way\n", name);
        std::exit(1);
    };
    Hello hello;
    same("hello_smallest", Encode(hello));
    hello.client = "page 1.0", hello.role = "spectator";
    hello.transports = {"webrtc", "websocket"}, hello.codecs = {"h264", "vp8", "jpeg"};
    hello.token = "secret", hello.resume = "resume-1", hello.session = "s-1", hello.world = "tiny";
    hello.max_frame = {1920, 1080}, hello.depth = true, hello.wait = true;
    same("hello", Encode(hello));
    same("start_smallest", Encode(Start()));
    same("start", Encode(Start{"city", MaxInteger, "a city at night", 2}));
    const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n'};
    same("prompt_frame", Encode(PromptFrame{1, 2, 0, 3, {png, sizeof png}}));
    same("frame_shown", Encode(FrameShown{7, 1300.25, 1310.5, -5.5, 16.68}));
    same("frame_shown_smallest", Encode(FrameShown{8, 1300.25, 1310.5, {}, {}}));
    same("ping", EncodePing(99.5));
    same("offer", EncodeOffer("v=0\r\n"));
    for (const char* type : {"stats", "request_control", "hand_over"}) same(type, EncodeBare(type));
    same("bye", EncodeBye());
    same("bye_keep", EncodeBye(true));
    const uint8_t rgb[] = {0, 1, 2, 3, 4, 5}, depth[] = {0, 0, 0xe8, 3};
    same("observe", Encode(Observation{Pose{{1, 1.6, -2}, {0, 0, 0, 1}, 50}, 2, 1, {rgb, 6}, {depth, 4}, 0.001, true}));
    ControllerState first{41, 1234.5, {0.25, -1, 0.5, 1}, 65537, {"KeyW", "ShiftLeft"}, {320.5, -12}, Pose{{1.5, 1.6, -2.25}, {0, 0, 0, 1}, 62.5}};
    ControllerState second;
    second.sequence = 40, second.time = 1220;
    Bytes out;
    EncodeInput({first, second}, out);
    same("input", out);
    return 0;
}

int Gamepads() {
    InputSampler sampler;
    std::string line;
    int index = 0;
    Bytes out;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        for (int i = 0; i < 4; ++i) {
            double value;
            words >> value;
            sampler.SetAxis(i, value);
        }
        std::vector<int> pressed{std::istream_iterator<int>(words), {}};
        for (int i = 0; i < 17; ++i) sampler.SetButton(i, std::count(pressed.begin(), pressed.end(), i) > 0);
        EncodeInput(sampler.Sample(16.5 * index++), out);
    }
    for (uint8_t byte : out) std::printf("%02x", byte);
    return 0;
}

int Poses() {
    Pose in;
    double aspect;
    while (std::cin >> in.position[0] >> in.position[1] >> in.position[2] >> in.orientation[0] >> in.orientation[1] >>
           in.orientation[2] >> in.orientation[3] >> in.fov_y >> aspect) {
        const UnrealPose out = ToUnreal(in, aspect);
        const Pose back = ToProtocol(out, aspect);
        bool same = back.orientation == in.orientation && std::fabs(back.fov_y - in.fov_y) < 1e-9;
        for (size_t i = 0; i < 3; ++i) same = same && std::fabs(back.position[i] - in.position[i]) < 1e-12;
        for (double v : out.position) std::printf("%.17g ", v);
        for (double v : out.rotation) std::printf("%.17g ", v);
        std::printf("%.17g %d\n", out.fov_x, int(same));
    }
    return 0;
}

int Warps() {
    const auto read = [](UnrealPose& out, double& aspect) {
        Pose in;
        for (double& v : in.position) std::cin >> v;
        for (double& v : in.orientation) std::cin >> v;
        std::cin >> in.fov_y >> aspect;
        out = ToUnreal(in, aspect);
        return bool(std::cin);
    };
    UnrealPose frame, display;
    double frame_aspect, display_aspect;
    while (read(frame, frame_aspect) && read(display, display_aspect)) {
        const FrameWarp warp = Aim(frame, frame_aspect, display, display_aspect);
        for (const auto& row : warp.to_frame) {
            for (double v : row) std::printf("%.17g ", v);
        }
        for (double v : warp.origin) std::printf("%.17g ", v);
        for (double v : warp.frame_tangents) std::printf("%.17g ", v);
        std::printf("%.17g %.17g\n", warp.display_tangents[0], warp.display_tangents[1]);
    }
    return 0;
}

void Homographies() {
    // The display's camera is turned 30 degrees to the left: its middle shows what the frame has there.
    const double angle = std::acos(-1.0) / 6;
    UnrealPose frame, display{{500, 600, 700}, {0, 0, -std::sin(angle / 2), std::cos(angle / 2)}, 90};
    const Matrix3 turned = RotationHomography(frame, display);
    EXPECT(std::fabs(turned[1][0] / turned[0][0] + std::tan(angle)) < 1e-12 && std::fabs(turned[2][0]) < 1e-12);
    const FrameWarp same = Aim(display, 1.6, display, 1.6);
    for (size_t row = 0; row < 3; ++row) {
        for (size_t column = 0; column < 3; ++column) EXPECT(std::fabs(same.to_frame[row][column] - (row == column ? 1 : 0)) < 1e-12);
        EXPECT(same.origin[row] == 0);
    }
    EXPECT(same.frame_tangents == same.display_tangents);
}

void Clocks() {
    ClockOffset clock;
    EXPECT(!clock.Offset() && !clock.ShortestRoundTrip());
    clock.Pong(100, 110, 5);
    clock.Pong(200, 202, 1101);
    clock.Pong(300, 340, 5);
    clock.Pong(10, 5, 0);  // received before it was sent: ignored
    EXPECT(*clock.ShortestRoundTrip() == 2 && *clock.Offset() == -900 && *clock.LatestRoundTrip() == 40);
    for (int i = 0; i < 30; ++i) clock.Pong(400, 405, 0);
    EXPECT(*clock.ShortestRoundTrip() == 5);  // the shorter one is too old
}

void Slots() {
    LatestFrame latest;
    ReceivedFrame frame;
    EXPECT(!latest.Take(frame));
    for (int i = 1; i <= 3; ++i) {
        frame.message = {uint8_t(i)};
        latest.Put(frame);
    }
    EXPECT(latest.Dropped() == 2 && latest.Take(frame) && frame.message == Bytes{3} && !latest.Take(frame));
    latest.Put(frame);
    latest.Clear();
    EXPECT(!latest.Take(frame));
}

void Origins() {
    const auto same = [](const Pose& a, const Pose& b) {
        bool close = true;
        for (size_t i = 0; i < 3; ++i) close = close && std::fabs(a.position[i] - b.position[i]) < 1e-12;
        for (size_t i = 0; i < 4; ++i) close = close && std::fabs(a.orientation[i] - b.orientation[i]) < 1e-12;
        return close;
    };
    const Pose sent{{3, 1, -4}, {0.36, 0.48, 0.64, 0.48}, 60}, ahead{{0, 0, -1}, {0, 0, 0, 1}, 60};
    EXPECT(same(Compose(sent, Inverse(sent)), Pose()));
    const double half = std::sqrt(0.5);  // a quarter turn to the left: ahead (-Z) becomes left (-X)
    EXPECT(same(Compose(Pose{{}, {0, half, 0, half}, 50}, ahead), Pose{{-1, 0, 0}, {0, half, 0, half}, 50}));
    WorldOrigin origin;
    FrameHeader header;
    header.input_sequence = 300;
    header.camera = {{0, 1.6, 0}, {0, 0.6, 0, 0.8}, 50};
    EXPECT(same(origin.ToScene(header), header.camera));  // nothing was sent yet
    ControllerState state;
    state.sequence = 300, state.camera = sent;
    origin.Sent(state);
    header.input_sequence = -1;
    EXPECT(same(origin.ToScene(header), sent));  // no frame answered yet: at the newest camera
    header.input_sequence = 300;
    EXPECT(same(origin.ToScene(header), sent));
    // A step ahead in the world is a step ahead of that camera in the scene.
    header.input_sequence = 900;
    header.camera = Compose(header.camera, ahead);
    EXPECT(same(origin.ToScene(header), Compose(sent, ahead)));
}

void Sampling() {
    InputSampler sampler;
    EXPECT(sampler.Due(0) && !sampler.Due(5));
    sampler.SetKey("KeyW", true);
    EXPECT(!sampler.Due(5) && sampler.Due(7) && !sampler.Due(8));
    int due = 0;
    for (double now = 100; now < 1100; now += 1) due += sampler.Due(now);
    EXPECT(due >= 59 && due <= 61);
    for (int i = 0; i < 20; ++i) sampler.SetKey("Key" + std::to_string(i), true);
    sampler.SetAxis(1, -7);
    sampler.SetAxis(0, std::strtod("nan", nullptr));
    sampler.MovePointer(3, 4);
    sampler.MovePointer(1, -8);
    const ControllerState& state = sampler.Sample(1).front();
    EXPECT(state.keys.size() == MaxKeys && state.axes[0] == 0 && state.axes[1] == -1);
    EXPECT(state.pointer[0] == 4 && state.pointer[1] == -4);
    sampler.ReleaseAll();
    for (int i = 0; i < 9; ++i) EXPECT(sampler.Sample(2).size() == std::min<size_t>(4, size_t(i) + 2));
    const auto& history = sampler.Sample(3);
    EXPECT(history[0].sequence == 10 && history[3].sequence == 7 && history[0].keys.empty() && history[0].pointer[0] == 4);
}

Bytes ServerFrame(int opcode, const std::string& body, bool last = true) {
    Bytes out{uint8_t(opcode | (last ? 0x80 : 0))};
    if (body.size() < 126) out.push_back(uint8_t(body.size()));
    else out.push_back(126), out.push_back(uint8_t(body.size() >> 8)), out.push_back(uint8_t(body.size()));
    out.insert(out.end(), body.begin(), body.end());
    return out;
}

WebSocket Opened(size_t largest) {
    Address address;
    EXPECT(ReadAddress("ws://host:81/session", address));
    WebSocket web(address, largest, [] { return 0x01020304u; });
    const std::string request(web.Outgoing().begin(), web.Outgoing().end());
    EXPECT(request.find("GET /session HTTP/1.1\r\nHost: host:81\r\n") == 0);
    const std::string key = request.substr(request.find("Key: ") + 5, 24);
    const std::string answer = "HTTP/1.1 101 Switching Protocols\r\nUPGRADE: WebSocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept:  " + AcceptKey(key) + "\r\n\r\n";
    for (char c : answer) {
        const uint8_t byte = uint8_t(c);
        EXPECT(web.Feed(&byte, 1));
    }
    EXPECT(web.IsOpen());
    web.Outgoing().clear();
    return web;
}

bool Feed(WebSocket& web, const Bytes& bytes, size_t step = 1 << 20) {
    bool good = true;
    for (size_t at = 0; at < bytes.size() && good; at += step) good = web.Feed(&bytes[at], std::min(step, bytes.size() - at));
    return good;
}

void WebSockets() {
    EXPECT(AcceptKey("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");  // RFC 6455, 1.3
    // A message in fragments with a ping between them, in segments of every size.
    for (size_t step : {1u, 2u, 7u, 100u, 100000u}) {
        WebSocket web = Opened(1 << 20);
        const std::string large(70000, 'x');
        Bytes all;
        const auto add = [&](const Bytes& more) { all.insert(all.end(), more.begin(), more.end()); };
        add(ServerFrame(2, "ab", false));
        add(ServerFrame(9, "hey"));
        add(ServerFrame(0, "", false));
        add(ServerFrame(0, std::string(300, 'c')));
        add(ServerFrame(2, "second"));
        add(ServerFrame(2, "never ends", false));
        EXPECT(Feed(web, all, step));
        Bytes message;
        EXPECT(web.Next(message) && std::string(message.begin(), message.end()) == "ab" + std::string(300, 'c'));
        EXPECT(web.Next(message) && std::string(message.begin(), message.end()) == "second" && !web.Next(message));
        const Bytes pong{0x8a, 0x83, 4, 3, 2, 1, 'h' ^ 4, 'e' ^ 3, 'y' ^ 2};
        EXPECT(web.Outgoing() == pong);
    }
    const struct { Bytes bytes; const char* reason; } bad[] = {
        {ServerFrame(1, "text"), "binary"},
        {ServerFrame(0, "x"), "out of order"},
        {ServerFrame(3, "x"), "unknown kind"},
        {ServerFrame(9, "x", false), "control frame"},
        {{0xc2, 0}, "reserved"},
        {{0x82, 0x81, 0, 0, 0, 0, 0}, "mask"},
        {ServerFrame(2, std::string(101, 'x')), "more than 100 bytes"},
        {{0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "more than 100 bytes"},
        {ServerFrame(8, "\x03\xf0no_free_seat"), "1008, no_free_seat"},
    };
    for (const auto& item : bad) {
        WebSocket web = Opened(100);
        EXPECT(!Feed(web, item.bytes) && web.Reason().find(item.reason) != std::string::npos);
        EXPECT(web.Outgoing().size() == 8 && web.Outgoing()[0] == 0x88);
        EXPECT(!Feed(web, ServerFrame(2, "x")));
    }
    Address address;
    WebSocket html({"host", "/", 80}, 100, [] { return 0u; });
    const std::string page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>";
    EXPECT(!html.Feed(reinterpret_cast<const uint8_t*>(page.data()), page.size()) && html.Reason().find("200 OK") != std::string::npos);
    EXPECT(ReadAddress("[::1]:9", address) && address.host == "::1" && address.port == 9 && address.path == "/session");
    EXPECT(ReadAddress("wss://a", address) && address.port == 443 && address.tls);
    EXPECT(ReadAddress("https://a:9/x", address) && address.port == 9 && address.tls && address.path == "/x");
    EXPECT(ReadAddress("ws://a", address) && !address.tls);
    EXPECT(ReadAddress("http://a/", address) && address.port == 80 && address.path == "/session");
    for (const char* text : {"", "wss://", "a:0", "a:65536", "a:b", ":80", "a b", "[::1", "ws://a:1\r\nx/y"}) EXPECT(!ReadAddress(text, address));
}

ServerMessage OfType(ServerMessage::Type type) {
    ServerMessage message;
    message.type = type;
    return message;
}

std::string Did(Session& session) {
    std::string text;
    for (const Command& command : session.Commands()) {
        if (command.kind == Command::Kind::Connect) text += "connect ";
        if (command.kind == Command::Kind::Disconnect) text += "disconnect ";
        if (command.kind == Command::Kind::Notice) text += "notice ";
        if (command.kind != Command::Kind::Send) continue;
        Value value;
        const auto error = Validate(Direction::Client, command.message.data(), command.message.size(), value);
        EXPECT(!error);
        text += std::string(value.Find("type")->text);
        for (const char* name : {"resume", "theme"}) {
            const Value* field = value.Find(name);
            if (field != nullptr && field->kind == Value::Kind::String) text += "(" + std::string(field->text) + ")";
        }
        text += " ";
    }
    return text;
}

ServerMessage Greeting(bool started) {
    ServerMessage message = OfType(ServerMessage::Type::Welcome);
    message.welcome.transport = "websocket", message.welcome.codec = "jpeg";
    message.welcome.resume = "r", message.welcome.seat = "seated";
    message.welcome.world.themes = {"city", "zoo"};
    message.welcome.started = started;
    return message;
}

ServerMessage Refusal(const char* code, bool fatal = true) {
    ServerMessage message = OfType(ServerMessage::Type::Error);
    message.error = {code, "no", "", "", "", "", fatal};
    return message;
}

Session Playing() {
    Session session;
    session.Play("zoo", 1, 0);
    EXPECT(Did(session) == "connect ");
    session.Opened(10);
    EXPECT(Did(session) == "hello ");
    session.Received(Greeting(false), 20);
    EXPECT(Did(session) == "start(zoo) " && session.Current() == Session::State::Loading);
    ServerMessage status = OfType(ServerMessage::Type::Status);
    status.status.state = "playing";
    session.Received(status, 30);
    session.FrameShown(31);
    EXPECT(session.Current() == Session::State::Playing && session.TakesInput());
    return session;
}

void Sessions() {
    using State = Session::State;
    {  // pings: quick at first, then every 500 ms; silence reconnects with the resume token
        Session session = Playing();
        int pings = 0;
        for (double now = 40; now < 3500; now += 20) {
            session.Tick(now);
            pings += Did(session) == "ping ";
        }
        EXPECT(pings >= 11 && pings <= 13);
        for (double now = 3500; now < 4100; now += 20) session.Tick(now);
        EXPECT(Did(session).find("disconnect") != std::string::npos && session.Current() == State::Reconnecting);
        session.Tick(4400);
        EXPECT(Did(session) == "connect ");
        session.Opened(4410);
        EXPECT(Did(session) == "hello(r) ");
        session.Received(Greeting(true), 4420);
        EXPECT(Did(session).empty());  // the world runs already
        session.FrameShown(5000);
        EXPECT(session.Current() == State::Playing);
        session.Leave(5001);
        EXPECT(Did(session) == "bye disconnect " && session.Current() == State::Idle);
    }
    {  // a restart while the connection is lost is sent when it is back
        Session session = Playing();
        session.Closed("broken", 100);
        session.Restart("city", 2, 110);
        session.Tick(400);
        session.Opened(410);
        session.Received(Greeting(true), 420);
        EXPECT(Did(session) == "connect hello(r) start(city) ");
    }
    {  // an expired session begins again without the token
        Session session = Playing();
        session.Closed("broken", 100);
        session.Tick(400);
        session.Opened(410);
        session.Received(Refusal("session_expired"), 420);
        session.Opened(430);
        EXPECT(Did(session) == "connect hello(r) notice disconnect connect hello ");
    }
    {  // a full server is asked again; a fatal error ends the session; a server that never answers as well
        Session session;
        session.Play("", {}, 0);
        session.Opened(1);
        session.Received(Refusal("no_free_seat"), 2);
        EXPECT(session.Current() == State::Full);
        session.Tick(5003);
        session.Opened(5004);
        session.Received(Refusal("unauthorized"), 5005);
        EXPECT(session.Current() == State::Error && session.Fault()->code == "unauthorized");
        session.Play("", {}, 6000);
        for (double now = 6000; now < 30000 && session.Current() == State::Connecting; now += 50) {
            session.Tick(now);
            if (Did(session).find("connect ") != std::string::npos) session.Closed("refused", now);
        }
        EXPECT(session.Current() == State::Error && session.Fault()->code == "unreachable");
    }
    {  // a rejected restart keeps the world; a rejected first start frees the seat
        Session session = Playing();
        session.Restart("volcano", 1, 40);
        session.Received(Refusal("unknown_theme", false), 50);
        EXPECT(Did(session) == "start(volcano) notice ");
        session.FrameShown(60);
        EXPECT(session.Current() == State::Playing);
        Session first;
        first.Play("zoo", {}, 0, {Bytes(MaxPart + 1)});
        first.Opened(1);
        first.Received(Greeting(false), 2);
        EXPECT(Did(first) == "connect hello prompt_frame prompt_frame start(zoo) ");
        first.Received(Refusal("bad_prompt_frame", false), 3);
        EXPECT(Did(first) == "bye disconnect " && first.Current() == State::Error);
    }
    {  // the world dies and comes back; an invalid message ends the session
        Session session = Playing();
        ServerMessage event = OfType(ServerMessage::Type::Event);
        event.text = "world_lost";
        session.Received(event, 40);
        session.FrameShown(41);
        EXPECT(session.Current() == State::Reconnecting);
        session.FrameShown(400);
        EXPECT(session.Current() == State::Playing);
        session.Invalid({"bad_message", "no", "a", "b", "c", "frame.image"}, 500);
        EXPECT(session.Current() == State::Error && session.Fault()->path == "frame.image");
    }
}

}  // namespace

int main(int count, char** words) {
    const std::string verb = count > 1 ? words[1] : "";
    if (verb == "messages") return Messages();
    if (verb == "encode" && count > 2) return Encodings(words[2]);
    if (verb == "gamepads") return Gamepads();
    if (verb == "poses") return Poses();
    if (verb == "warps") return Warps();
    if (verb != "unit") return 2;
    Clocks();
    Slots();
    Origins();
    Homographies();
    Sampling();
    WebSockets();
    Sessions();
    std::printf("ok\n");
    return 0;
}
