// The network thread of a stream. A level load or a breakpoint in the game thread cannot silence it.
#pragma once

#include "CoreMinimal.h"
#include "HAL/Runnable.h"
#include "HAL/ThreadSafeBool.h"

#include "Core/Client.h"
#include "TlsSocket.h"

class FRunnableThread;
class FSocket;
class IImageWrapper;
class ISocketSubsystem;
class FInternetAddr;

// The client's socket interface over the engine's.
class FWorldStreamSocket final : public worldbridge::Socket
{
public:
    virtual ~FWorldStreamSocket() override;
    // Look the host up. May take seconds; call it where nothing waits.
    void Resolve(const worldbridge::Address& Address);

    virtual bool Open(const worldbridge::Address& Address) override;
    virtual Link Poll() override;
    virtual int Read(uint8_t* Data, int Size) override;
    virtual int Write(const uint8_t* Data, int Size) override;
    virtual void Wait(int Milliseconds) override;
    virtual void EndWriting() override;
    virtual void Close() override;

private:
    bool WouldBlock() const;

    ISocketSubsystem* Subsystem = nullptr;
    TSharedPtr<FInternetAddr> Peer;
    FSocket* Stream = nullptr;
};

// A decoded frame: B, G, R, A bytes, top row first. Depth: uint16, or empty; a step is DepthScale metres.
struct FWorldStreamDecodedFrame
{
    TArray64<uint8> Pixels;
    TArray64<uint8> Depth;
    double DepthScale = 0;
    int32 Width = 0;
    int32 Height = 0;
    worldbridge::FrameHeader Header;
    double Received = 0;
};

class FWorldStreamNetwork final : public FRunnable
{
public:
    // Call on the game thread.
    FWorldStreamNetwork(worldbridge::SessionOptions Options, const worldbridge::Address& Address, const FString& Theme, int64 Seed);
    virtual ~FWorldStreamNetwork() override;

    worldbridge::Client& Client() { return Stream; }
    // Take the newest decoded frame. Returns whether there is one that was not taken yet.
    bool TakeDecoded(FWorldStreamDecodedFrame& Decoded);

    // Whether a frame could not be decoded; true once for frames that follow each other.
    bool TakeBadFrame();

    virtual uint32 Run() override;
    virtual void Stop() override { bStopping = true; }

    static double Now();

private:
    void Decode(worldbridge::ReceivedFrame& Frame);
    bool DecodeImage(const worldbridge::ReceivedFrame& Frame, FWorldStreamDecodedFrame& Decoded);

    worldbridge::Address Server;
    FWorldStreamSocket Link;
    worldbridge::TlsSocket Secure;
    worldbridge::Client Stream;
    TSharedPtr<IImageWrapper> Decoder;
    FThreadSafeBool bStopping = false;
    FCriticalSection DecodedLock;
    FWorldStreamDecodedFrame Newest;
    bool bHasNewest = false;
    bool bBadFrame = false;
    bool bBadFrameIsNew = false;
    FRunnableThread* Thread = nullptr;
};
