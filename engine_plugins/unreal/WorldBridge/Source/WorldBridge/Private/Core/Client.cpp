#include "Client.h"

#include <algorithm>
#include <cmath>

namespace worldbridge {
namespace {

constexpr int ReadSize = 65536;
constexpr int ReadsPerStep = 512;  // a fast server must not keep Step() from returning
constexpr size_t MaxNotices = 16;
constexpr int GoodbyeMs = 200, GoodbyeStepMs = 20;

}  // namespace

Client::Client(SessionOptions options, Address to, Socket& stream, std::function<double()> clock, std::function<uint32_t()> random)
    : session(std::move(options)), address(std::move(to)), socket(stream), now_ms(std::move(clock)), random_bits(std::move(random)) {}

void Client::Play(const std::string& theme, std::optional<int64_t> seed, std::vector<Bytes> prompt_frames) {
    const std::lock_guard<std::mutex> lock(mutex);
    session.Play(theme, seed, now_ms(), std::move(prompt_frames));
}

void Client::Restart(const std::string& theme, std::optional<int64_t> seed) {
    const std::lock_guard<std::mutex> lock(mutex);
    session.Restart(theme, seed, now_ms());
}

void Client::Leave() {
    const std::lock_guard<std::mutex> lock(mutex);
    session.Leave(now_ms());
    Execute();
}

void Client::FrameShown(const FrameHeader& header, double received, double shown) {
    const std::lock_guard<std::mutex> lock(mutex);
    session.FrameShown(shown);
    if (!web || !session.Greeted()) return;
    worldbridge::FrameShown report;
    report.frame = header.frame;
    report.received = received;
    report.shown = shown;
    report.offset = offset.Offset();
    web->SendBinary(Encode(report));
}

void Client::Observe(const Observation& given) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (given.width * given.height <= MaxObservedPixels && Takes("observations")) observation = Encode(given);
}

Size Client::ObservedSize() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!session.Greeting()) return {2, 2};
    const WorldSpec& world = session.Greeting()->world;
    const double scale = std::min(1.0, std::sqrt(double(MaxObservedPixels) / (double(world.width) * double(world.height))));
    return {int64_t(double(world.width) * scale), int64_t(double(world.height) * scale)};
}

Pose Client::SceneCamera(const FrameHeader& header) {
    const std::lock_guard<std::mutex> lock(mutex);
    return Takes("camera") ? origin.ToScene(header) : header.camera;
}

bool Client::Takes(const char* conditioning) const {
    if (!session.Greeting()) return false;
    const auto& given = session.Greeting()->world.conditionings;
    return std::find(given.begin(), given.end(), conditioning) != given.end();
}

View Client::Look() {
    const std::lock_guard<std::mutex> lock(mutex);
    View view;
    view.state = session.Current();
    view.detail = session.Detail();
    view.error = session.Fault();
    view.notices.swap(notices);
    view.frames = frames;
    view.dropped = latest.Dropped();
    view.round_trip = offset.ShortestRoundTrip().value_or(-1);
    view.latency = latency;
    if (session.Greeting()) {
        const WorldSpec& world = session.Greeting()->world;
        view.world = world.name;
        view.themes = world.themes;
        view.width = world.width, view.height = world.height;
        view.fps = world.fps;
        view.has_depth = world.depth;
        view.wants_camera = Takes("camera");
        view.wants_observations = Takes("observations");
    }
    return view;
}

void Client::Step() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (session.Current() != Session::State::Idle) session.Tick(now_ms());
    Execute();
    if (!web) return;
    if (connecting) {
        const Socket::Link link = socket.Poll();
        if (link == Socket::Link::Pending) return;
        if (link == Socket::Link::Failed) return Lost(socket.Reason().empty() ? "the connection was refused" : socket.Reason());
        connecting = false;
    }
    if (!Flush()) return Lost("the connection broke");
    ReadAll();
    const double now = now_ms();
    if (web && session.TakesInput() && sampler.Due(now)) {
        const std::vector<ControllerState>& states = sampler.Sample(now);
        origin.Sent(states.front());
        EncodeInput(states, input);
        web->SendBinary(input);
    }
    if (web && session.TakesInput() && !observation.empty() && web->Outgoing().size() < observation.size()) {
        web->SendBinary(observation);
        observation.clear();
    }
    Execute();
    if (web && !connecting && !Flush()) Lost("the connection broke");
}

void Client::ReadAll() {
    uint8_t data[ReadSize];
    for (int i = 0; i < ReadsPerStep && web; ++i) {
        const int size = socket.Read(data, ReadSize);
        if (size == 0) return;
        if (size < 0) return Lost("the connection broke");
        const double now = now_ms();
        const bool before = web->IsOpen();
        const bool good = web->Feed(data, size_t(size));
        if (!before && web->IsOpen()) {
            offset.Reset();
            sampler.Reset();
            origin.Forget();
            last_answered = -1;
            session.Opened(now);
        }
        while (web && web->Next(message)) {
            Handle(message, now);
            Execute();
        }
        if (!good && web) return Lost(web->Reason());
    }
}

void Client::Handle(Bytes& bytes, double now) {
    ServerMessage decoded;
    if (const auto error = DecodeServer(bytes.data(), bytes.size(), decoded)) return session.Invalid(*error, now);
    session.Received(decoded, now);
    if (decoded.type == ServerMessage::Type::Pong) offset.Pong(decoded.time, now, decoded.server_time);
    if (decoded.type != ServerMessage::Type::Frame || !decoded.frame.image) return;
    ++frames;
    const FrameHeader& header = decoded.frame.header;
    if (header.input_sequence > last_answered) {
        last_answered = header.input_sequence;
        const double sample = now - header.input_time;
        if (sample >= 0) latency = latency < 0 ? sample : latency + (sample - latency) / 16;
    }
    spare.message.swap(bytes);  // the views in the frame stay valid: the bytes do not move
    spare.frame = std::move(decoded.frame);
    spare.received = now;
    latest.Put(spare);
}

void Client::Execute() {
    for (std::vector<Command> todo = session.Commands(); !todo.empty(); todo = session.Commands()) {
        for (Command& command : todo) {
            switch (command.kind) {
                case Command::Kind::Connect:
                    web.emplace(address, MaxServerMessage, random_bits);
                    connecting = true;
                    if (!socket.Open(address)) Lost("the host \"" + address.host + "\" was not found");
                    break;
                case Command::Kind::Disconnect: Disconnect(session.Current() == Session::State::Idle); break;
                case Command::Kind::Send:
                    if (web) web->SendBinary(command.message);
                    break;
                case Command::Kind::Notice:
                    if (notices.size() < MaxNotices) notices.push_back(std::move(command.text));
                    break;
            }
        }
    }
}

void Client::Lost(const std::string& reason) {
    const std::string why = reason;  // may belong to `web`
    web.reset();
    socket.Close();
    latest.Clear();
    session.Closed(why, now_ms());
}

void Client::Disconnect(bool politely) {
    if (web && !connecting) {
        web->Close();
        Flush();
        if (politely) {
            // Closing with unread frames resets the connection, and the goodbye might be lost with it.
            socket.EndWriting();
            uint8_t unread[4096];
            for (int waited = 0; waited < GoodbyeMs; waited += GoodbyeStepMs) {
                int size;
                while ((size = socket.Read(unread, sizeof unread)) > 0) {}
                if (size < 0) break;
                socket.Wait(GoodbyeStepMs);
            }
        }
    }
    web.reset();
    socket.Close();
    latest.Clear();
}

bool Client::Flush() {
    Bytes& out = web->Outgoing();
    size_t sent = 0;
    while (sent < out.size()) {
        const int size = socket.Write(out.data() + sent, int(std::min<size_t>(out.size() - sent, 1 << 20)));
        if (size < 0) return false;
        if (size == 0) break;
        sent += size_t(size);
    }
    out.erase(out.begin(), out.begin() + std::ptrdiff_t(sent));
    return true;
}

}  // namespace worldbridge
