#include "Session.h"

#include <algorithm>

namespace worldbridge {
namespace {

constexpr double FirstPauseMs = 250, LongestPauseMs = 4000;  // between two attempts to connect
constexpr double SilenceMs = 4000;        // without a message for this long, the connection counts as dead
constexpr double OpenMs = 5000;           // longest wait for a socket to open
constexpr double SilentMs = 3000;         // after this long without a ping the server may have given up
constexpr double PingMs = 500;
constexpr double FastPingMs = 80;         // the first pings match the clocks before the first frame
constexpr int FastPings = 6;
constexpr double FirstContactMs = 12000;  // how long to try to reach a server that never answered
constexpr double GiveUpMs = 60000;        // how long to try to resume; the seat is kept for half of this
constexpr double FullRetryMs = 5000;
constexpr double StaleMs = 250;           // a frame this soon after "loading" may be of the world before
constexpr double SleptMs = 2000;          // a pause between two ticks that a breakpoint or a level load makes

double Pause(int attempt) { return std::min(LongestPauseMs, FirstPauseMs * double(1 << std::min(attempt, 8))); }

}  // namespace

const char* NameOf(Session::State state) {
    constexpr const char* Names[] = {"idle", "connecting", "queued", "loading", "playing", "reconnecting", "full", "error"};
    return Names[size_t(state)];
}

std::vector<Command> Session::Commands() {
    std::vector<Command> out;
    out.swap(commands);
    return out;
}

void Session::Enter(State to, double now, std::string why) {
    if (state != to) since = now;
    state = to;
    detail = std::move(why);
}

void Session::Play(const std::string& theme, std::optional<int64_t> seed, double now, std::vector<Bytes> prompt_frames) {
    if (wire != Wire::Closed) HangUp();
    wanted = before = {theme, seed};
    frames = std::move(prompt_frames);
    running = restart_due = false;
    resume.clear();
    fault.reset();
    attempt = 0;
    Enter(State::Connecting, now, "Contacting the server");
    since = now;
    Connect(now);
}

void Session::Restart(const std::string& theme, std::optional<int64_t> seed, double now) {
    before = wanted;
    wanted = {theme, seed};
    if (wire != Wire::Greeted) restart_due = running;
    else if (state != State::Queued) {  // a seat comes first
        rejected_reverts = true;
        SendStart(now, false);
    }
}

void Session::Leave(double now) {
    if (wire == Wire::Greeted) Send(EncodeBye());
    HangUp();
    resume.clear();
    welcome.reset();
    Enter(State::Idle, now);
}

void Session::Connect(double now) {
    wire = Wire::Opening;
    wire_since = now;
    retry_at.reset();
    Do(Command::Kind::Connect);
}

void Session::HangUp() {
    wire = Wire::Closed;
    retry_at.reset();
    Do(Command::Kind::Disconnect);
}

void Session::Again(double now) {
    HangUp();
    Connect(now);
}

void Session::Opened(double now) {
    if (wire != Wire::Opening) return;
    wire = Wire::Open;
    wire_since = heard = next_ping = pinged = now;
    pings = 0;
    start_sent = false;
    Hello hello;
    hello.client = options.client;
    hello.role = options.role;
    hello.token = options.token;
    hello.world = options.world;
    hello.depth = options.depth;
    hello.wait = options.wait;
    if (!resume.empty()) hello.resume = resume;
    Send(Encode(hello));
}

void Session::Closed(const std::string& reason, double now) {
    if (wire == Wire::Closed) return;  // closed by this side
    const bool greeted = wire == Wire::Greeted;
    wire = Wire::Closed;
    if (state == State::Error || state == State::Idle || state == State::Full) return;
    if (greeted) attempt = 0;
    const bool first = state == State::Connecting;
    Enter(first ? State::Connecting : State::Reconnecting, now, reason);
    if (now - since > (first ? FirstContactMs : GiveUpMs)) {
        Fail({first ? "unreachable" : "connection_lost",
              first ? "The server does not answer" : "The connection was lost and did not come back",
              "a WebSocket connection to /session",
              (reason.empty() ? "no answer" : reason) + " (" + std::to_string(attempt) + " attempts)",
              "Check that the server is running and that this machine can reach it, then play again.", ""},
             now);
        return;
    }
    retry_at = now + Pause(attempt);
    ++attempt;
}

void Session::Fail(Error error, double now) {
    fault = std::move(error);
    Enter(State::Error, now, fault->message);
    if (wire != Wire::Closed) HangUp();
}

void Session::Invalid(const Error& error, double now) {
    if (wire == Wire::Closed) return;
    if (error.path == "welcome" && error.expected.find("version") != std::string::npos)
        return Fail({"version_mismatch", "Client and server speak different versions of the protocol",
                     "version " + std::to_string(ProtocolVersion), "another one", "Update the older of the two.", error.path},
                    now);
    Fail({error.code, "The server sent an invalid message: " + error.message, error.expected, error.got,
          "Update the plugin or the server: they may be of different versions.", error.path},
         now);
}

void Session::Received(const ServerMessage& message, double now) {
    if (wire != Wire::Open && wire != Wire::Greeted) return;
    heard = now;
    using Type = ServerMessage::Type;
    switch (message.type) {
        case Type::Welcome: return OnWelcome(message.welcome, now);
        case Type::Status: return OnStatus(message.status, now);
        case Type::Error: return OnError(message.error, now);
        case Type::Event:
            if (message.text == "world_restored") return;  // a status follows
            if (message.text != "world_lost") return Notice(message.detail);
            fresh_from = now + StaleMs;
            return Enter(State::Reconnecting, now, message.detail.empty() ? "The world is being restarted" : message.detail);
        case Type::Frame: case Type::Pong: case Type::Answer: case Type::Stats: return;  // of the caller
    }
}

void Session::OnWelcome(const Welcome& message, double now) {
    if (message.transport != "websocket" || message.codec != "jpeg")
        return Fail({"unsupported", "The server chose a way to send frames that this client cannot receive",
                     "websocket with jpeg", message.transport + " with " + message.codec, "Update the server.", "welcome.transport"},
                    now);
    wire = Wire::Greeted;
    welcome = message;
    attempt = 0;
    resume = message.resume;
    running = message.started;
    fresh_from = now + StaleMs;
    Enter(state == State::Reconnecting ? State::Reconnecting : State::Loading, now, "Opening the world");
    if (message.seat == "queued") Enter(State::Queued, now, "All seats are taken");
    else if (restart_due || !running) Begin(now);
}

void Session::Begin(double now) {
    if (options.role == "spectator") return;
    const std::vector<std::string>& themes = welcome->world.themes;
    const bool known = std::find(themes.begin(), themes.end(), wanted.theme) != themes.end();
    if (!known && !wanted.theme.empty() && !themes.empty()) Notice("This server has no theme \"" + wanted.theme + "\".");
    if (!known) wanted.theme = themes.empty() ? "" : themes.front();
    SendStart(now, !frames.empty());
}

void Session::SendStart(double now, bool with_frames) {
    start_sent = true;
    restart_due = false;
    Start start;
    if (!wanted.theme.empty()) start.theme = wanted.theme;
    start.seed = wanted.seed;
    if (with_frames) {
        for (size_t i = 0; i < frames.size(); ++i) {
            const size_t parts = std::max<size_t>(1, (frames[i].size() + MaxPart - 1) / MaxPart);
            for (size_t part = 0; part < parts; ++part) {
                const size_t at = part * MaxPart;
                PromptFrame message;
                message.index = int64_t(i), message.count = int64_t(frames.size());
                message.part = int64_t(part), message.parts = int64_t(parts);
                message.data = {frames[i].data() + at, std::min(MaxPart, frames[i].size() - at)};
                Send(Encode(message));
            }
        }
        start.prompt_frames = int64_t(frames.size());
    }
    Send(Encode(start));
    fresh_from = now + StaleMs;
    Enter(state == State::Reconnecting ? State::Reconnecting : State::Loading, now, "Opening the world");
}

void Session::OnStatus(const Status& status, double now) {
    if (status.state != "playing" && status.state != NameOf(state)) fresh_from = now + StaleMs;
    if (status.state == "queued") return Enter(State::Queued, now, status.detail.empty() ? "All seats are taken" : status.detail);
    if (status.state == "ready") {
        if (wire == Wire::Greeted && !running && !start_sent) Begin(now);
        return;
    }
    if (status.state == "loading") return Enter(State::Loading, now, status.detail.empty() ? "Loading the model" : status.detail);
    if (status.state == "reconnecting")
        return Enter(State::Reconnecting, now, status.detail.empty() ? "The world is being restarted" : status.detail);
    running = true;
    fresh_from = now;
    if (state == State::Loading) detail = "Waiting for the first frame";
}

void Session::OnError(const Error& error, double now) {
    if (error.code == "no_free_seat") {
        fault = error;
        HangUp();
        Enter(State::Full, now, error.message);
        retry_at = now + FullRetryMs;
        return;
    }
    if (error.code == "session_expired" && wire == Wire::Greeted && now - pinged > SilentMs) {
        Enter(State::Reconnecting, now, "This program was asleep");
        return Again(now);
    }
    if (error.code == "session_expired" && wire == Wire::Open && !resume.empty()) {
        resume.clear();
        welcome.reset();
        Notice("The earlier session had ended. This is a new one with the same theme and seed.");
        return Again(now);
    }
    if ((error.code == "client_too_slow" || error.code == "not_greeted") && error.fatal && wire == Wire::Greeted) {
        Enter(State::Reconnecting, now, error.message);
        return Again(now);
    }
    if (error.fatal || wire == Wire::Open) return Fail(error, now);
    if (start_sent && (error.code == "bad_prompt_frame" || error.code == "unknown_theme" || error.code == "unsupported")) {
        if (!running) {
            Send(EncodeBye());
            resume.clear();
            return Fail(error, now);
        }
        if (rejected_reverts) wanted = before;
        rejected_reverts = false;
        fresh_from = now;
    }
    Notice(error.message + ". " + error.remedy);
}

void Session::FrameShown(double now) {
    if (wire == Wire::Greeted && now >= fresh_from && (state == State::Loading || state == State::Reconnecting))
        Enter(State::Playing, now);
}

void Session::Tick(double now) {
    // After a sleep, messages that have arrived may not have been read yet.
    if (last_tick && now - *last_tick > SleptMs) heard = now;
    last_tick = now;
    if (wire == Wire::Closed) {
        if (!retry_at || now < *retry_at) return;
        if (state == State::Full) Enter(State::Connecting, now, "Asking for a seat again");
        return Connect(now);
    }
    if (wire == Wire::Opening) {
        if (now - wire_since <= OpenMs) return;
        Do(Command::Kind::Disconnect);
        return Closed("the connection did not open within 5 s", now);
    }
    if (now - heard > SilenceMs) {
        Do(Command::Kind::Disconnect);
        return Closed("the server was silent for 4 s", now);
    }
    if (now < next_ping) return;
    Send(EncodePing(now));  // also before the welcome: loading a model may take minutes
    pinged = now;
    ++pings;
    next_ping = now + (pings < FastPings ? FastPingMs : PingMs);
}

}  // namespace worldbridge
