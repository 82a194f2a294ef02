// A live world in a texture. Add this component to an actor, set the server, press Play.
#pragma once

#include "CoreMinimal.h"
#include "Components/ActorComponent.h"
#include "WorldStreamComponent.generated.h"

class APlayerController;
class UEnhancedInputComponent;
class UInputAction;
class UInputMappingContext;
class UTexture2D;
class FWorldStreamNetwork;
namespace worldbridge
{
class Client;
struct Pose;
}

UENUM(BlueprintType)
enum class EWorldStreamState : uint8
{
    Idle,
    Connecting,
    Queued,
    Loading,
    Playing,
    Reconnecting,
    Full,
    Error
};

/** What went wrong, what was expected instead, and what to do. */
USTRUCT(BlueprintType)
struct FWorldStreamError
{
    GENERATED_BODY()

    UPROPERTY(BlueprintReadOnly, Category = "World Stream")
    FString Code;
    UPROPERTY(BlueprintReadOnly, Category = "World Stream")
    FString Message;
    UPROPERTY(BlueprintReadOnly, Category = "World Stream")
    FString Expected;
    UPROPERTY(BlueprintReadOnly, Category = "World Stream")
    FString Got;
    UPROPERTY(BlueprintReadOnly, Category = "World Stream")
    FString Remedy;
};

DECLARE_DYNAMIC_MULTICAST_DELEGATE_TwoParams(FWorldStreamStateChanged, EWorldStreamState, State, const FString&, Detail);
DECLARE_DYNAMIC_MULTICAST_DELEGATE_OneParam(FWorldStreamFailed, const FWorldStreamError&, Error);
DECLARE_DYNAMIC_MULTICAST_DELEGATE_OneParam(FWorldStreamNotice, const FString&, Text);
DECLARE_DYNAMIC_MULTICAST_DELEGATE_OneParam(FWorldStreamTextureChanged, UTexture2D*, Texture);
DECLARE_DYNAMIC_MULTICAST_DELEGATE_OneParam(FWorldStreamFrameShown, int64, Frame);

UCLASS(ClassGroup = (WorldBridge), meta = (BlueprintSpawnableComponent))
class WORLDBRIDGE_API UWorldStreamComponent : public UActorComponent
{
    GENERATED_BODY()

public:
    UWorldStreamComponent();
    virtual ~UWorldStreamComponent() override;

    /** Address of the server: ws://host:port/session, or wss:// for TLS. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    FString Server = TEXT("ws://127.0.0.1:8080/session");
    /** The server's secret, if it requires one. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    FString Token;
    /** Refuse any world but this one. Empty: play what the server has. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    FString World;
    /** Empty: the world's first theme. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    FString Theme;
    /** Below 0: the server chooses. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    int64 Seed = -1;
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    bool bPlayOnBegin = true;
    /** Send the first player's gamepad, keyboard and mouse. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    bool bSendInput = true;
    /** Send the first player's camera to worlds that are conditioned on one. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    bool bSendCamera = true;
    /** Ask for depth with every frame; worlds that have it send it. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    bool bWantDepth = false;
    /** Wait in the queue if every seat is taken. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Stream")
    bool bWaitForSeat = false;

    /** The newest frame; null before the first. Made again when the size of the frames changes. */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    TObjectPtr<UTexture2D> Texture;
    /** The depth of the frame in Texture, 16 bits linear, 0 where it is unknown; null before the first. */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    TObjectPtr<UTexture2D> DepthTexture;
    /** Centimetres along the camera's axis that 1 in DepthTexture stands for; 0 while frames come without depth. */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    double DepthScale = 0;
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    EWorldStreamState State = EWorldStreamState::Idle;
    /** From reading the input to receiving its frame, in ms; below 0: not known yet. */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    double LatencyMs = -1;
    /** Shortest of the last pings, in ms; below 0: not known yet. */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    double RoundTripMs = -1;
    /**
     * Where the shown frame is seen from, in Unreal's axes and centimetres: in the level, if the world
     * follows the camera that is sent, and from the world's own origin otherwise.
     */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    FTransform FrameCamera;
    /** Horizontal field of view of that camera, in degrees. */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Stream")
    double FrameFieldOfView = 90;

    UPROPERTY(BlueprintAssignable, Category = "World Stream")
    FWorldStreamStateChanged OnStateChanged;
    UPROPERTY(BlueprintAssignable, Category = "World Stream")
    FWorldStreamFailed OnFailed;
    UPROPERTY(BlueprintAssignable, Category = "World Stream")
    FWorldStreamNotice OnNotice;
    UPROPERTY(BlueprintAssignable, Category = "World Stream")
    FWorldStreamTextureChanged OnTextureChanged;
    UPROPERTY(BlueprintAssignable, Category = "World Stream")
    FWorldStreamFrameShown OnFrameShown;

    /** Connect and start the world. Does nothing while it plays. */
    UFUNCTION(BlueprintCallable, Category = "World Stream")
    void Play();
    /** Leave: the seat is free at once. */
    UFUNCTION(BlueprintCallable, Category = "World Stream")
    void Stop();
    /** Begin the world again with another theme or seed. */
    UFUNCTION(BlueprintCallable, Category = "World Stream")
    void Restart(const FString& NewTheme, int64 NewSeed);
    /** Hold or release a key by its name in the web's KeyboardEvent.code, such as KeyW. */
    UFUNCTION(BlueprintCallable, Category = "World Stream")
    void SetKey(const FString& KeyCode, bool bHeld);

    /** Hold the newest frame and release all controls; the seat is kept. */
    UFUNCTION(BlueprintCallable, Category = "World Stream")
    void SetPaused(bool bNewPaused);
    /** Whether the world takes views of the level, as a World Guide sends. */
    UFUNCTION(BlueprintPure, Category = "World Stream")
    bool TakesViews() const { return bTakesViews; }
    /** Whether the world follows the first player's camera: Frame Camera is in the level then. */
    UFUNCTION(BlueprintPure, Category = "World Stream")
    bool FollowsCamera() const { return bSendCamera && bWantsCamera; }

    /** The client while it plays, or null. For other components of the plugin. */
    worldbridge::Client* GetClient() const;
    /** The first player's camera, in Unreal's axes and in the protocol's, and its view's width / height. Returns whether there is one. */
    bool GetPlayerCamera(FVector& Location, FQuat& Rotation, worldbridge::Pose& Pose, double* Aspect = nullptr) const;

    virtual void BeginPlay() override;
    virtual void EndPlay(const EEndPlayReason::Type Reason) override;
    virtual void TickComponent(float DeltaTime, ELevelTick TickType, FActorComponentTickFunction* ThisTickFunction) override;

private:
    void MapInput(APlayerController& Player);
    void UnmapInput();
    UInputAction* Map(const struct FKey& Key, bool bAxis);
    void SampleInput();
    void SampleCamera();
    void ShowNewestFrame();
    void ShowState();

    UPROPERTY(Transient)
    TObjectPtr<UInputMappingContext> Mapping;
    UPROPERTY(Transient)
    TObjectPtr<UEnhancedInputComponent> Input;
    UPROPERTY(Transient)
    TObjectPtr<APlayerController> MappedPlayer;
    UPROPERTY(Transient)
    TArray<TObjectPtr<UInputAction>> AxisActions;
    UPROPERTY(Transient)
    TArray<TObjectPtr<UInputAction>> ButtonActions;
    UPROPERTY(Transient)
    TArray<TObjectPtr<UInputAction>> KeyActions;

    bool bWantsCamera = false;
    bool bTakesViews = false;
    bool bPaused = false;
    TSharedPtr<FWorldStreamNetwork> Network;
};
