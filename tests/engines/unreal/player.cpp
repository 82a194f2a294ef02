// A console player: connects, walks ahead, and prints what it measured as JSON.
//   player ADDRESS SECONDS [SECONDS that its main loop stalls [TOKEN [LAST [CERTIFICATE]]]]
// With LAST it plays to the frame of that number, and prints the hash of every image. A file of a
// CERTIFICATE is trusted for wss://.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "posix_socket.h"

#if __has_include(<openssl/ssl.h>)
#include "TlsSocket.cpp"
#define WITH_TLS 1
#endif

using namespace worldbridge;

int main(int count, char** words) {
    Address address;
    if (count < 3 || !ReadAddress(words[1], address)) return 2;
    const double seconds = std::atof(words[2]), stall = count > 3 ? std::atof(words[3]) : 0;
    PosixSocket plain;
#ifdef WITH_TLS
    const char* trusted = count > 6 ? words[6] : nullptr;
    TlsSocket socket(plain, [=](SSL_CTX* context) {
        if (trusted != nullptr) SSL_CTX_load_verify_locations(context, trusted, nullptr);
    });
#else
    PosixSocket& socket = plain;
#endif
    std::random_device device;
    SessionOptions options;
    if (count > 4 && *words[4]) options.token = words[4];
    const int64_t until = count > 5 && *words[5] ? std::atoll(words[5]) : -1;
    std::string hashes;
    Client client(options, address, socket, NowMs, [&] { return uint32_t(device()); });
    client.Play("", 7);
    // The network has its own thread, as in the engine: a main loop that stalls cannot silence it.
    bool stop = false;
    std::mutex guard;
    std::thread network([&] {
        for (;;) {
            {
                const std::lock_guard<std::mutex> lock(guard);
                if (stop) break;
            }
            client.Step();
            socket.Wait(2);
        }
        client.Leave();
    });

    int64_t shown = 0, images = 0, answered = -1, first_frame = -1, last_frame = -1, after_stall = -1, ordered = 1;
    double first = 0, last = 0, stall_end = 0, stall_age = -1;
    bool stalled = false;
    ReceivedFrame frame;
    const double begin = NowMs();
    View view;
    Pose camera, first_camera;
    while (true) {
        const double now = NowMs();
        if (until >= 0) {
            if (last_frame == until || now - begin > 60000) break;
        } else if (shown > 0) {  // a busy machine needs longer for 15 frames per second
            const double played = (now - first) / 1000;
            if (played > seconds && (shown >= 15 * seconds || played > 15 * seconds)) break;
        } else if (now - begin > 30000) break;
        view = client.Look();
        if (view.state == Session::State::Error) break;
        if (client.TakeFrame(frame)) {
            const FrameHeader& header = frame.frame.header;
            if (shown == 0) {
                first = now, first_frame = header.frame, first_camera = header.camera;
                client.Input([](InputSampler& input) { input.SetKey("KeyW", true); });
            }
            last = now;
            ++shown;
            ordered &= header.frame > last_frame;
            last_frame = header.frame;
            camera = header.camera;
            answered = std::max(answered, header.input_sequence);
            const ByteView image = *frame.frame.image;
            images += image.size > 4 && image.data[0] == 0xff && image.data[1] == 0xd8 &&
                        image.data[image.size - 2] == 0xff && image.data[image.size - 1] == 0xd9;
            if (until >= 0) {
                uint32_t hash = 0x811c9dc5u;
                for (size_t i = 0; i < image.size; ++i) hash = (hash ^ image.data[i]) * 0x01000193u;
                hashes += (hashes.empty() ? "" : ", ") + std::to_string(hash);
            }
            client.FrameShown(header, frame.received, now);
            if (stalled && after_stall < 0) after_stall = header.frame, stall_age = stall_end - frame.received;
        }
        if (stall > 0 && !stalled && shown > 15) {
            std::this_thread::sleep_for(std::chrono::duration<double>(stall));
            stalled = true;
            stall_end = NowMs();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    view = client.Look();
    const double leaving = NowMs();
    {
        const std::lock_guard<std::mutex> lock(guard);
        stop = true;
    }
    network.join();
    const double left = NowMs() - leaving;
    const double dx = camera.position[0] - first_camera.position[0], dz = camera.position[2] - first_camera.position[2];
    std::string got = view.error ? view.error->got : "";
    std::replace(got.begin(), got.end(), '"', '\'');  // the server's words stand in JSON
    std::printf(
        "{\"state\": \"%s\", \"error\": \"%s\", \"shown\": %lld, \"images\": %lld, \"ordered\": %s, \"fps\": %.2f, "
        "\"received_fps\": %.2f, \"first_frame\": %lld, \"last_frame\": %lld, \"answered\": %lld, \"round_trip_ms\": %.3f, "
        "\"latency_ms\": %.2f, \"walked_m\": %.3f, \"leave_ms\": %.1f, \"stall_age_ms\": %.1f, \"width\": %lld, \"height\": %lld, \"hashes\": [%s], \"got\": \"%s\", \"remedy\": \"%s\"}\n",
        NameOf(view.state), view.error ? view.error->code.c_str() : "", (long long)shown, (long long)images, ordered ? "true" : "false",
        shown > 1 ? double(shown - 1) * 1000 / (last - first) : 0.0,
        shown > 1 ? double(view.frames) * 1000 / (last - first) : 0.0, (long long)first_frame, (long long)last_frame,
        (long long)answered, view.round_trip, view.latency, std::sqrt(dx * dx + dz * dz), left, stall_age,
        (long long)view.width, (long long)view.height, hashes.c_str(),
        got.c_str(), view.error ? view.error->remedy.c_str() : "");
    return view.error ? 1 : 0;
}
