#include "WorldStreamNetwork.h"

#include "AddressInfoTypes.h"
#include "HAL/PlatformTime.h"
#include "HAL/RunnableThread.h"
#include "IImageWrapper.h"
#include "IImageWrapperModule.h"
#include "Interfaces/ISslCertificateManager.h"
#include "Misc/Guid.h"
#include "Misc/ScopeLock.h"
#include "Modules/ModuleManager.h"
#include "SocketSubsystem.h"
#include "Sockets.h"
#include "SslModule.h"

FWorldStreamSocket::~FWorldStreamSocket()
{
    Close();
}

void FWorldStreamSocket::Resolve(const worldbridge::Address& Address)
{
    Subsystem = ISocketSubsystem::Get(PLATFORM_SOCKETSUBSYSTEM);
    if (Subsystem == nullptr)
    {
        return;
    }
    const FString Host(UTF8_TO_TCHAR(Address.host.c_str()));
    const FAddressInfoResult Found =
        Subsystem->GetAddressInfo(*Host, nullptr, EAddressInfoFlags::Default, NAME_None, ESocketType::SOCKTYPE_Streaming);
    if (Found.Results.Num() > 0)
    {
        Peer = Found.Results[0].Address;
        Peer->SetPort(Address.port);
    }
}

bool FWorldStreamSocket::Open(const worldbridge::Address&)
{
    Close();
    if (Subsystem == nullptr || !Peer.IsValid())
    {
        return false;
    }
    Stream = Subsystem->CreateSocket(NAME_Stream, TEXT("WorldBridge"), Peer->GetProtocolType());
    if (Stream == nullptr)
    {
        return false;
    }
    Stream->SetNonBlocking(true);
    Stream->SetNoDelay(true);
    return Stream->Connect(*Peer) || WouldBlock();
}

bool FWorldStreamSocket::WouldBlock() const
{
    const ESocketErrors Code = Subsystem->GetLastErrorCode();
    return Code == SE_EWOULDBLOCK || Code == SE_EINPROGRESS;
}

worldbridge::Socket::Link FWorldStreamSocket::Poll()
{
    if (Stream == nullptr)
    {
        return Link::Failed;
    }
    const ESocketConnectionState Connection = Stream->GetConnectionState();
    if (Connection == SCS_ConnectionError)
    {
        return Link::Failed;
    }
    return Stream->Wait(ESocketWaitConditions::WaitForWrite, FTimespan::Zero()) ? Link::Connected : Link::Pending;
}

int FWorldStreamSocket::Read(uint8_t* Data, int Size)
{
    int32 Done = 0;
    if (Stream == nullptr)
    {
        return -1;
    }
    if (Stream->Recv(Data, Size, Done))
    {
        return Done;
    }
    return Done < 0 && WouldBlock() ? 0 : -1;
}

int FWorldStreamSocket::Write(const uint8_t* Data, int Size)
{
    int32 Done = 0;
    if (Stream == nullptr)
    {
        return -1;
    }
    if (Stream->Send(Data, Size, Done))
    {
        return Done;
    }
    return WouldBlock() ? 0 : -1;
}

void FWorldStreamSocket::Wait(int Milliseconds)
{
    if (Stream == nullptr)
    {
        FPlatformProcess::Sleep(Milliseconds / 1000.0f);
        return;
    }
    Stream->Wait(ESocketWaitConditions::WaitForRead, FTimespan::FromMilliseconds(Milliseconds));
}

void FWorldStreamSocket::EndWriting()
{
    if (Stream != nullptr)
    {
        Stream->Shutdown(ESocketShutdownMode::Write);
    }
}

void FWorldStreamSocket::Close()
{
    if (Stream != nullptr)
    {
        Stream->Close();
        Subsystem->DestroySocket(Stream);
        Stream = nullptr;
    }
}

FWorldStreamNetwork::FWorldStreamNetwork(
    worldbridge::SessionOptions Options, const worldbridge::Address& Address, const FString& Theme, int64 Seed)
    : Server(Address)
    , Secure(Link, [](ssl_ctx_st* Context) { FSslModule::Get().GetCertificateManager().AddCertificatesToSslContext(Context); })
    , Stream(MoveTemp(Options), Address, Secure, &FWorldStreamNetwork::Now, [] { return FGuid::NewGuid().A; })
{
    // Modules may be loaded on the game thread only; the decoder then works on any.
    IImageWrapperModule& Images = FModuleManager::LoadModuleChecked<IImageWrapperModule>(TEXT("ImageWrapper"));
    FModuleManager::LoadModuleChecked<FSslModule>(TEXT("SSL"));
    Decoder = Images.CreateImageWrapper(EImageFormat::JPEG);
    Stream.Play(TCHAR_TO_UTF8(*Theme), Seed >= 0 ? std::optional<int64_t>(Seed) : std::nullopt);
    Thread = FRunnableThread::Create(this, TEXT("WorldBridge"));
}

FWorldStreamNetwork::~FWorldStreamNetwork()
{
    if (Thread != nullptr)
    {
        Thread->Kill(true);  // asks Stop() and waits: at most 0.2 s for the goodbye
        delete Thread;
    }
}

double FWorldStreamNetwork::Now()
{
    return FPlatformTime::Seconds() * 1000.0;
}

uint32 FWorldStreamNetwork::Run()
{
    Link.Resolve(Server);
    worldbridge::ReceivedFrame Frame;
    while (!bStopping)
    {
        Stream.Step();
        if (Stream.TakeFrame(Frame))
        {
            Decode(Frame);
        }
        Secure.Wait(2);
    }
    Stream.Leave();
    return 0;
}

bool FWorldStreamNetwork::DecodeImage(const worldbridge::ReceivedFrame& Frame, FWorldStreamDecodedFrame& Decoded)
{
    const worldbridge::ByteView Image = *Frame.frame.image;
    if (!Decoder.IsValid() || !Decoder->SetCompressed(Image.data, int64(Image.size)) ||
        !Decoder->GetRaw(ERGBFormat::BGRA, 8, Decoded.Pixels))
    {
        return false;
    }
    Decoded.Width = int32(Decoder->GetWidth());
    Decoded.Height = int32(Decoder->GetHeight());
    return Decoded.Width > 0 && Decoded.Height > 0 && Decoded.Pixels.Num() == int64(Decoded.Width) * Decoded.Height * 4;
}

void FWorldStreamNetwork::Decode(worldbridge::ReceivedFrame& Frame)
{
    FWorldStreamDecodedFrame Decoded;
    if (!DecodeImage(Frame, Decoded))
    {
        FScopeLock Lock(&DecodedLock);
        bBadFrameIsNew = bBadFrameIsNew || !bBadFrame;
        bBadFrame = true;
        return;
    }
    const std::optional<worldbridge::ByteView>& Depth = Frame.frame.depth;
    if (Depth && int64(Depth->size) == int64(Decoded.Width) * Decoded.Height * 2)
    {
        Decoded.Depth.Append(Depth->data, int64(Depth->size));
        Decoded.DepthScale = Frame.frame.depth_scale;
    }
    Decoded.Header = Frame.frame.header;
    Decoded.Received = Frame.received;
    FScopeLock Lock(&DecodedLock);
    Newest = MoveTemp(Decoded);
    bHasNewest = true;
    bBadFrame = false;
}

bool FWorldStreamNetwork::TakeBadFrame()
{
    FScopeLock Lock(&DecodedLock);
    const bool bNew = bBadFrameIsNew;
    bBadFrameIsNew = false;
    return bNew;
}

bool FWorldStreamNetwork::TakeDecoded(FWorldStreamDecodedFrame& Decoded)
{
    FScopeLock Lock(&DecodedLock);
    if (!bHasNewest)
    {
        return false;
    }
    bHasNewest = false;
    Decoded = MoveTemp(Newest);
    return true;
}
