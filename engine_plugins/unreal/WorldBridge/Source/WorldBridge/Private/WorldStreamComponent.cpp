#include "WorldStreamComponent.h"

#include "Camera/PlayerCameraManager.h"
#include "Engine/LocalPlayer.h"
#include "Engine/Texture2D.h"
#include "Engine/World.h"
#include "EnhancedInputComponent.h"
#include "EnhancedInputSubsystems.h"
#include "GameFramework/PlayerController.h"
#include "InputAction.h"
#include "InputCoreTypes.h"
#include "InputMappingContext.h"
#include "RHI.h"

#include "Core/Coordinates.h"
#include "WorldStreamNetwork.h"

namespace
{
// Buttons 0 to 16 of the W3C standard gamepad; 6 and 7 are the triggers, 16 has no key in Unreal.
TArray<FKey> GamepadButtons()
{
    return {
        EKeys::Gamepad_FaceButton_Bottom, EKeys::Gamepad_FaceButton_Right, EKeys::Gamepad_FaceButton_Left, EKeys::Gamepad_FaceButton_Top,
        EKeys::Gamepad_LeftShoulder, EKeys::Gamepad_RightShoulder, EKeys::Gamepad_LeftTrigger, EKeys::Gamepad_RightTrigger,
        EKeys::Gamepad_Special_Left, EKeys::Gamepad_Special_Right, EKeys::Gamepad_LeftThumbstick, EKeys::Gamepad_RightThumbstick,
        EKeys::Gamepad_DPad_Up, EKeys::Gamepad_DPad_Down, EKeys::Gamepad_DPad_Left, EKeys::Gamepad_DPad_Right};
}

struct FWorldStreamKey
{
    FKey Key;
    const char* Code;
};

TArray<FWorldStreamKey> Keyboard()
{
    return {
        {EKeys::W, "KeyW"}, {EKeys::A, "KeyA"}, {EKeys::S, "KeyS"}, {EKeys::D, "KeyD"}, {EKeys::Q, "KeyQ"}, {EKeys::E, "KeyE"},
        {EKeys::R, "KeyR"}, {EKeys::F, "KeyF"}, {EKeys::Up, "ArrowUp"}, {EKeys::Down, "ArrowDown"}, {EKeys::Left, "ArrowLeft"},
        {EKeys::Right, "ArrowRight"}, {EKeys::SpaceBar, "Space"}, {EKeys::LeftShift, "ShiftLeft"}, {EKeys::LeftControl, "ControlLeft"},
        {EKeys::One, "Digit1"}, {EKeys::Two, "Digit2"}, {EKeys::Three, "Digit3"}, {EKeys::Four, "Digit4"}};
}

FString Text(const std::string& From)
{
    return FString(UTF8_TO_TCHAR(From.c_str()));
}

std::string Plain(const FString& From)
{
    return std::string(TCHAR_TO_UTF8(*From));
}

FWorldStreamError ErrorOf(const worldbridge::Error& From)
{
    return {Text(From.code), Text(From.message), Text(From.expected), Text(From.got), Text(From.remedy)};
}
}  // namespace

UWorldStreamComponent::UWorldStreamComponent()
{
    PrimaryComponentTick.bCanEverTick = true;
}

UWorldStreamComponent::~UWorldStreamComponent() = default;

void UWorldStreamComponent::BeginPlay()
{
    Super::BeginPlay();
    if (bPlayOnBegin)
    {
        Play();
    }
}

void UWorldStreamComponent::EndPlay(const EEndPlayReason::Type Reason)
{
    Stop();
    Super::EndPlay(Reason);
}

void UWorldStreamComponent::Play()
{
    if (Network.IsValid() && State != EWorldStreamState::Error)
    {
        return;
    }
    Stop();
    worldbridge::Address Address;
    if (!worldbridge::ReadAddress(Plain(Server), Address))
    {
        State = EWorldStreamState::Error;
        OnFailed.Broadcast(ErrorOf(
            {"bad_address", "The server's address is not valid", "ws://host:port/session", Plain(Server), "Correct the property Server.", ""}));
        return;
    }
    worldbridge::SessionOptions Options;
    Options.role = bSendCamera ? "engine" : "player";
    Options.depth = bWantDepth;
    Options.wait = bWaitForSeat;
    if (!Token.IsEmpty())
    {
        Options.token = Plain(Token);
    }
    if (!World.IsEmpty())
    {
        Options.world = Plain(World);
    }
    Network = MakeShared<FWorldStreamNetwork>(MoveTemp(Options), Address, Theme, Seed);
    State = EWorldStreamState::Connecting;
    OnStateChanged.Broadcast(State, FString());
}

void UWorldStreamComponent::Stop()
{
    UnmapInput();
    if (!Network.IsValid())
    {
        return;
    }
    Network.Reset();
    State = EWorldStreamState::Idle;
    OnStateChanged.Broadcast(State, FString());
}

void UWorldStreamComponent::Restart(const FString& NewTheme, int64 NewSeed)
{
    Theme = NewTheme;
    Seed = NewSeed;
    if (Network.IsValid())
    {
        Network->Client().Restart(Plain(NewTheme), NewSeed >= 0 ? std::optional<int64_t>(NewSeed) : std::nullopt);
    }
}

void UWorldStreamComponent::SetPaused(bool bNewPaused)
{
    bPaused = bNewPaused;
    if (bPaused && Network.IsValid())
    {
        Network->Client().Input([](worldbridge::InputSampler& Sampler) { Sampler.ReleaseAll(); });
    }
}

worldbridge::Client* UWorldStreamComponent::GetClient() const
{
    return Network.IsValid() ? &Network->Client() : nullptr;
}

void UWorldStreamComponent::SetKey(const FString& KeyCode, bool bHeld)
{
    if (Network.IsValid())
    {
        Network->Client().Input([&](worldbridge::InputSampler& Sampler) { Sampler.SetKey(Plain(KeyCode), bHeld); });
    }
}

void UWorldStreamComponent::TickComponent(float DeltaTime, ELevelTick TickType, FActorComponentTickFunction* ThisTickFunction)
{
    Super::TickComponent(DeltaTime, TickType, ThisTickFunction);
    if (!Network.IsValid())
    {
        return;
    }
    if (!bPaused)
    {
        SampleInput();
        SampleCamera();
        ShowNewestFrame();
    }
    ShowState();  // last: what it calls may stop the stream
}

UInputAction* UWorldStreamComponent::Map(const FKey& Key, bool bAxis)
{
    UInputAction* Action = NewObject<UInputAction>(this);
    Action->ValueType = bAxis ? EInputActionValueType::Axis1D : EInputActionValueType::Boolean;
    Action->bConsumeInput = false;  // the game may use the same keys
    Mapping->MapKey(Action, Key);
    Input->BindActionValue(Action);
    return Action;
}

void UWorldStreamComponent::MapInput(APlayerController& Player)
{
    ULocalPlayer* Local = Player.GetLocalPlayer();
    UEnhancedInputLocalPlayerSubsystem* Subsystem = ULocalPlayer::GetSubsystem<UEnhancedInputLocalPlayerSubsystem>(Local);
    if (Subsystem == nullptr)
    {
        return;
    }
    MappedPlayer = &Player;
    Mapping = NewObject<UInputMappingContext>(this);
    Input = NewObject<UEnhancedInputComponent>(&Player);
    Input->RegisterComponent();
    for (const FKey& Key : {EKeys::Gamepad_LeftX, EKeys::Gamepad_LeftY, EKeys::Gamepad_RightX, EKeys::Gamepad_RightY, EKeys::MouseX, EKeys::MouseY})
    {
        AxisActions.Add(Map(Key, true));
    }
    for (const FKey& Key : GamepadButtons())
    {
        ButtonActions.Add(Map(Key, false));
    }
    for (const FWorldStreamKey& Item : Keyboard())
    {
        KeyActions.Add(Map(Item.Key, false));
    }
    Player.PushInputComponent(Input);
    Subsystem->AddMappingContext(Mapping, 0);
}

void UWorldStreamComponent::UnmapInput()
{
    if (MappedPlayer != nullptr)
    {
        if (UEnhancedInputLocalPlayerSubsystem* Subsystem =
                ULocalPlayer::GetSubsystem<UEnhancedInputLocalPlayerSubsystem>(MappedPlayer->GetLocalPlayer()))
        {
            Subsystem->RemoveMappingContext(Mapping);
        }
        MappedPlayer->PopInputComponent(Input);
        Input->DestroyComponent();
    }
    MappedPlayer = nullptr;
    Mapping = nullptr;
    Input = nullptr;
    AxisActions.Empty();
    ButtonActions.Empty();
    KeyActions.Empty();
}

void UWorldStreamComponent::SampleInput()
{
    APlayerController* Player = GetWorld() != nullptr ? GetWorld()->GetFirstPlayerController() : nullptr;
    if (!bSendInput || Player != MappedPlayer)
    {
        UnmapInput();
    }
    if (!bSendInput || Player == nullptr)
    {
        return;
    }
    if (MappedPlayer == nullptr)
    {
        MapInput(*Player);
    }
    if (MappedPlayer == nullptr)
    {
        return;
    }
    const auto Axis = [this](int32 Index) { return double(Input->GetBoundActionValue(AxisActions[Index]).Get<float>()); };
    Network->Client().Input([&](worldbridge::InputSampler& Sampler) {
        // Unreal counts up as positive; the protocol, like the web, counts down as positive.
        Sampler.SetAxis(0, Axis(0));
        Sampler.SetAxis(1, -Axis(1));
        Sampler.SetAxis(2, Axis(2));
        Sampler.SetAxis(3, -Axis(3));
        Sampler.MovePointer(Axis(4), -Axis(5));
        for (int32 Index = 0; Index < ButtonActions.Num(); ++Index)
        {
            Sampler.SetButton(Index, Input->GetBoundActionValue(ButtonActions[Index]).Get<bool>());
        }
        const TArray<FWorldStreamKey> Keys = Keyboard();
        for (int32 Index = 0; Index < KeyActions.Num(); ++Index)
        {
            Sampler.SetKey(Keys[Index].Code, Input->GetBoundActionValue(KeyActions[Index]).Get<bool>());
        }
    });
}

bool UWorldStreamComponent::GetPlayerCamera(FVector& Location, FQuat& Rotation, worldbridge::Pose& Pose, double* Aspect) const
{
    APlayerController* Player = GetWorld() != nullptr ? GetWorld()->GetFirstPlayerController() : nullptr;
    if (Player == nullptr || Player->PlayerCameraManager == nullptr)
    {
        return false;
    }
    int32 Width = 0;
    int32 Height = 0;
    Player->GetViewportSize(Width, Height);
    Location = Player->PlayerCameraManager->GetCameraLocation();
    Rotation = Player->PlayerCameraManager->GetCameraRotation().Quaternion();
    const worldbridge::UnrealPose Camera{
        {Location.X, Location.Y, Location.Z},
        {Rotation.X, Rotation.Y, Rotation.Z, Rotation.W},
        double(Player->PlayerCameraManager->GetFOVAngle())};
    const double Shape = Width > 0 && Height > 0 ? double(Width) / Height : 16.0 / 9;
    Pose = worldbridge::ToProtocol(Camera, Shape);
    if (Aspect != nullptr)
    {
        *Aspect = Shape;
    }
    return true;
}

void UWorldStreamComponent::SampleCamera()
{
    FVector Location(0, 0, 0);
    FQuat Rotation(0, 0, 0, 1);
    worldbridge::Pose Camera;
    std::optional<worldbridge::Pose> Pose;
    if (bSendCamera && bWantsCamera && GetPlayerCamera(Location, Rotation, Camera))
    {
        Pose = Camera;
    }
    Network->Client().Input([&](worldbridge::InputSampler& Sampler) { Sampler.SetCamera(Pose); });
}

static bool IsNewSize(const UTexture2D* Texture, const FWorldStreamDecodedFrame& Frame)
{
    return Texture == nullptr || Texture->GetSizeX() != Frame.Width || Texture->GetSizeY() != Frame.Height;
}

// The renderer reads the data later, in its own thread: it owns the frame until it calls back.
static void Upload(UTexture2D& Texture, const TSharedPtr<FWorldStreamDecodedFrame>& Frame, uint8* Data, uint32 PixelBytes)
{
    const uint32 Width = uint32(Frame->Width);
    FUpdateTextureRegion2D* Region = new FUpdateTextureRegion2D(0, 0, 0, 0, Width, uint32(Frame->Height));
    TSharedPtr<FWorldStreamDecodedFrame>* Owner = new TSharedPtr<FWorldStreamDecodedFrame>(Frame);
    Texture.UpdateTextureRegions(
        0, 1, Region, Width * PixelBytes, PixelBytes, Data,
        [Owner](uint8*, const FUpdateTextureRegion2D* Done) {
            delete Owner;
            delete Done;
        });
}

void UWorldStreamComponent::ShowNewestFrame()
{
    const TSharedPtr<FWorldStreamNetwork> Live = Network;  // an event may call Stop()
    if (Live->TakeBadFrame())
    {
        OnFailed.Broadcast(ErrorOf(
            {"bad_message", "A frame cannot be decoded", "a JPEG image", "other bytes", "Update the plugin or the server.", "frame.image"}));
    }
    TSharedPtr<FWorldStreamDecodedFrame> Decoded = MakeShared<FWorldStreamDecodedFrame>();
    if (!Live->TakeDecoded(*Decoded))
    {
        return;
    }
    if (IsNewSize(Texture, *Decoded))
    {
        Texture = UTexture2D::CreateTransient(Decoded->Width, Decoded->Height, PF_B8G8R8A8);
        Texture->SRGB = true;
        Texture->AddressX = TA_Clamp;
        Texture->AddressY = TA_Clamp;
        Texture->UpdateResource();  // once: it makes a new texture of the renderer
        OnTextureChanged.Broadcast(Texture);
    }
    Upload(*Texture, Decoded, Decoded->Pixels.GetData(), 4);
    DepthScale = 100 * 65535 * Decoded->DepthScale;
    if (Decoded->Depth.Num() > 0)
    {
        if (IsNewSize(DepthTexture, *Decoded))
        {
            DepthTexture = UTexture2D::CreateTransient(Decoded->Width, Decoded->Height, PF_G16);
            DepthTexture->SRGB = false;
            DepthTexture->Filter = TF_Nearest;  // between two surfaces there is none
            DepthTexture->UpdateResource();
        }
        Upload(*DepthTexture, Decoded, Decoded->Depth.GetData(), 2);
    }
    const worldbridge::FrameHeader& Header = Decoded->Header;
    const worldbridge::UnrealPose Camera =
        worldbridge::ToUnreal(Live->Client().SceneCamera(Header), double(Decoded->Width) / Decoded->Height);
    FrameCamera = FTransform(
        FQuat(Camera.rotation[0], Camera.rotation[1], Camera.rotation[2], Camera.rotation[3]),
        FVector(Camera.position[0], Camera.position[1], Camera.position[2]));
    FrameFieldOfView = Camera.fov_x;
    Live->Client().FrameShown(Header, Decoded->Received, FWorldStreamNetwork::Now());
    OnFrameShown.Broadcast(Header.frame);
}

void UWorldStreamComponent::ShowState()
{
    if (!Network.IsValid())  // stopped by an event of the frame
    {
        return;
    }
    const worldbridge::View View = Network->Client().Look();
    LatencyMs = View.latency;
    RoundTripMs = View.round_trip;
    bWantsCamera = View.wants_camera;
    bTakesViews = View.wants_observations;
    for (const std::string& Notice : View.notices)
    {
        OnNotice.Broadcast(Text(Notice));
    }
    const EWorldStreamState Now = static_cast<EWorldStreamState>(View.state);
    if (Now == State)
    {
        return;
    }
    State = Now;
    OnStateChanged.Broadcast(State, Text(View.detail));
    if (View.error && (Now == EWorldStreamState::Error || Now == EWorldStreamState::Full))
    {
        OnFailed.Broadcast(ErrorOf(*View.error));
    }
}
