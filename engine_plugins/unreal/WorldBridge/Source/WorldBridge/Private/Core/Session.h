// One session as a state machine without I/O. Its methods report what happened and when (client
// time, ms); Commands() returns what the caller has to do, in order.
#pragma once

#include "Protocol.h"

namespace worldbridge {

struct Command {
    enum class Kind : uint8_t { Connect, Disconnect, Send, Notice };
    Kind kind;
    Bytes message;     // of Send
    std::string text;  // of Notice, for people
};

struct SessionOptions {
    std::string client = "unreal";
    std::string role = "player";  // player, engine, spectator
    std::optional<std::string> token, world;
    bool depth = false;
    bool wait = false;  // in the queue, if every seat is taken
};

class Session {
public:
    enum class State : uint8_t { Idle, Connecting, Queued, Loading, Playing, Reconnecting, Full, Error };

    explicit Session(SessionOptions with = {}) : options(std::move(with)) {}

    // Begin; an empty theme means the world's first. Prompt frames are whole image files.
    void Play(const std::string& theme, std::optional<int64_t> seed, double now, std::vector<Bytes> prompt_frames = {});
    // Restart the session's world, also while the connection is lost.
    void Restart(const std::string& theme, std::optional<int64_t> seed, double now);
    // Leave for good: the seat is free at once.
    void Leave(double now);

    void Opened(double now);
    void Closed(const std::string& reason, double now);
    void Received(const ServerMessage& message, double now);
    // A message that is not valid ends the session with an error.
    void Invalid(const Error& error, double now);
    void FrameShown(double now);
    // Call at least every 50 ms while the session is not idle: sends pings, notices silence, reconnects.
    void Tick(double now);

    std::vector<Command> Commands();
    State Current() const { return state; }
    const std::string& Detail() const { return detail; }
    const std::optional<Error>& Fault() const { return fault; }
    const std::optional<Welcome>& Greeting() const { return welcome; }
    bool Greeted() const { return wire == Wire::Greeted; }
    // Whether input is wanted: a seat, and a connection.
    bool TakesInput() const { return Greeted() && options.role != "spectator" && state != State::Queued; }

private:
    enum class Wire : uint8_t { Closed, Opening, Open, Greeted };
    struct Wish {
        std::string theme;
        std::optional<int64_t> seed;
    };

    void Do(Command::Kind kind) { commands.push_back({kind, {}, {}}); }
    void Send(Bytes message) { commands.push_back({Command::Kind::Send, std::move(message), {}}); }
    void Notice(std::string text) { commands.push_back({Command::Kind::Notice, {}, std::move(text)}); }
    void Enter(State to, double now, std::string why = {});
    void Connect(double now);
    void HangUp();
    void Again(double now);
    void Begin(double now);
    void SendStart(double now, bool with_frames);
    void Fail(Error error, double now);
    void OnWelcome(const Welcome& message, double now);
    void OnStatus(const Status& status, double now);
    void OnError(const Error& error, double now);

    SessionOptions options;
    State state = State::Idle;
    Wire wire = Wire::Closed;
    std::string detail;
    std::optional<Error> fault;
    std::optional<Welcome> welcome;
    std::string resume;
    Wish wanted, before;
    std::vector<Bytes> frames;
    std::vector<Command> commands;
    double since = 0, wire_since = 0, heard = 0, pinged = 0, next_ping = 0, fresh_from = 0;
    std::optional<double> retry_at, last_tick;
    int attempt = 0, pings = 0;
    bool running = false, start_sent = false, restart_due = false, rejected_reverts = false;
};

const char* NameOf(Session::State state);

}  // namespace worldbridge
