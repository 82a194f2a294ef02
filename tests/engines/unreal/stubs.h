// What the plugin uses of Unreal Engine 5.3, declared in the project's own words, so that a compiler
// can check the engine layer's types without the engine. Each section becomes one header.
//
// === CoreMinimal.h
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>
#define UCLASS(...)
#define USTRUCT(...)
#define UENUM(...)
#define UPROPERTY(...)
#define UFUNCTION(...)
#define GENERATED_BODY()
#define UMETA(...)
#define TEXT(x) u##x
#define UE_LOG(category, level, format, ...) UseLog(format, ##__VA_ARGS__)
#define DECLARE_DYNAMIC_MULTICAST_DELEGATE_OneParam(Name, T, P) \
    struct Name { void Broadcast(T P) const; }
#define DECLARE_DYNAMIC_MULTICAST_DELEGATE_TwoParams(Name, T, P, U, Q) \
    struct Name { void Broadcast(T P, U Q) const; }
using int32 = std::int32_t;
using int64 = std::int64_t;
using uint8 = std::uint8_t;
using uint32 = std::uint32_t;
using TCHAR = char16_t;
void UseLog(const TCHAR* format, ...);
template <typename T> std::remove_reference_t<T>&& MoveTemp(T&& value) { return static_cast<std::remove_reference_t<T>&&>(value); }
struct FString {
    FString();
    FString(const TCHAR* text);
    const TCHAR* operator*() const;
    bool IsEmpty() const;
};
const char* TCHAR_TO_UTF8(const TCHAR* text);
const TCHAR* UTF8_TO_TCHAR(const char* text);
struct FName {
    FName();
    FName(const TCHAR* text);
};
inline FName NAME_None, NAME_Stream;
template <typename T> struct TArray {
    TArray() {}
    TArray(std::initializer_list<T>) {}
    int32 Num() const { return 0; }
    int32 Add(const T&) { return 0; }
    void Empty() {}
    T& operator[](int32) { return *data; }
    const T& operator[](int32) const { return *data; }
    T* begin() { return data; }
    T* end() { return data; }
    const T* begin() const { return data; }
    const T* end() const { return data; }
    T* GetData() { return data; }
    T* data = nullptr;
};
template <typename T> struct TArray64 {
    int64 Num() const;
    void Append(const T* data, int64 count);
    T* GetData();
};
template <typename T> struct TSharedPtr {
    TSharedPtr();
    TSharedPtr(std::nullptr_t);
    bool IsValid() const;
    void Reset();
    T* operator->() const;
    T& operator*() const;
};
template <typename T, typename... A> TSharedPtr<T> MakeShared(A&&... arguments) {
    new T(static_cast<A&&>(arguments)...);
    return {};
}
template <typename T> struct TObjectPtr {
    TObjectPtr();
    TObjectPtr(T* object);
    operator T*() const;
    T* operator->() const;
};
struct FColor {
    uint8 B, G, R, A;
};
struct FLinearColor {
    FLinearColor(float r, float g, float b, float a);
    float R, G, B, A;
};
struct FVector {
    FVector(double x, double y, double z);
    FVector operator+(const FVector& other) const;
    FVector operator*(double scale) const;
    static double Dist(const FVector& a, const FVector& b);
    double X, Y, Z;
};
struct FQuat {
    FQuat(double x, double y, double z, double w);
    FVector GetForwardVector() const;
    double X, Y, Z, W;
};
struct FRotator {
    FQuat Quaternion() const;
};
struct FTransform {
    FTransform();
    FTransform(const FQuat& rotation, const FVector& translation);
    FVector GetLocation() const;
    FQuat GetRotation() const;
};
struct FTimespan {
    static FTimespan Zero();
    static FTimespan FromMilliseconds(double ms);
};
struct FCriticalSection {};
struct FPlatformProcess {
    static void Sleep(float seconds);
};
class UObject {};
template <typename T> T* NewObject(UObject* outer);
// === Components/ActorComponent.h
#include "CoreMinimal.h"
enum ELevelTick { LEVELTICK_All };
namespace EEndPlayReason { enum Type { Destroyed }; }
enum ETickingGroup { TG_PrePhysics, TG_PostUpdateWork };
struct FActorComponentTickFunction {
    bool bCanEverTick;
    ETickingGroup TickGroup;
};
class UWorld;
class AActor;
class UActorComponent : public UObject {
public:
    AActor* GetOwner() const;
    virtual ~UActorComponent();
    virtual void BeginPlay();
    virtual void EndPlay(const EEndPlayReason::Type reason);
    virtual void TickComponent(float delta, ELevelTick type, FActorComponentTickFunction* function);
    UWorld* GetWorld() const;
    void RegisterComponent();
    void DestroyComponent(bool promote = false);
    FActorComponentTickFunction PrimaryComponentTick;
};
// === GameFramework/Actor.h
#include "CoreMinimal.h"
class AActor : public UObject {
public:
    template <typename T> T* FindComponentByClass() const;
};
// === TextureResource.h
#include "CoreMinimal.h"
class FTextureRenderTargetResource {
public:
    bool ReadPixels(TArray<FColor>& out);
    bool ReadLinearColorPixels(TArray<FLinearColor>& out);
};
// === Engine/TextureRenderTarget2D.h
#include "CoreMinimal.h"
enum ETextureRenderTargetFormat { RTF_R32f, RTF_RGBA8 };
class FTextureRenderTargetResource;
class UTextureRenderTarget2D : public UObject {
public:
    int32 SizeX, SizeY;
    ETextureRenderTargetFormat RenderTargetFormat;
    void InitAutoFormat(uint32 width, uint32 height);
    FTextureRenderTargetResource* GameThread_GetRenderTargetResource();
};
// === Components/SceneCaptureComponent2D.h
#include "Components/ActorComponent.h"
enum ESceneCaptureSource : int { SCS_FinalColorLDR, SCS_SceneDepth };
class UTextureRenderTarget2D;
struct FEngineShowFlags {
    void SetPostProcessMaterial(bool shown);
};
class USceneCaptureComponent2D : public UActorComponent {
public:
    uint8 bCaptureEveryFrame : 1;
    uint8 bCaptureOnMovement : 1;
    ESceneCaptureSource CaptureSource;
    FEngineShowFlags ShowFlags;
    float FOVAngle;
    TObjectPtr<UTextureRenderTarget2D> TextureTarget;
    void SetWorldLocationAndRotation(FVector location, const FQuat& rotation);
    void CaptureScene();
};
// === Materials/MaterialInterface.h
#include "CoreMinimal.h"
class UMaterialInterface : public UObject {};
// === Materials/MaterialInstanceDynamic.h
#include "Materials/MaterialInterface.h"
class UTexture;
class UMaterialInstanceDynamic : public UMaterialInterface {
public:
    static UMaterialInstanceDynamic* Create(UMaterialInterface* parent, UObject* outer);
    void SetScalarParameterValue(FName name, float value);
    void SetTextureParameterValue(FName name, UTexture* value);
    void SetVectorParameterValue(FName name, FLinearColor value);
};
// === Components/PostProcessComponent.h
#include "Components/ActorComponent.h"
template <typename T> struct TScriptInterface {
    template <typename O> TScriptInterface(TObjectPtr<O> object);
};
class IBlendableInterface;
class UPostProcessComponent : public UActorComponent {
public:
    uint8 bEnabled : 1;
    uint8 bUnbound : 1;
    void AddOrUpdateBlendable(TScriptInterface<IBlendableInterface> object, float weight = 1);
};
// === Interfaces/ISslCertificateManager.h
struct ssl_ctx_st;
class ISslCertificateManager {
public:
    virtual ~ISslCertificateManager();
    virtual void AddCertificatesToSslContext(ssl_ctx_st* context) const = 0;
};
// === SslModule.h
#include "Modules/ModuleManager.h"
class ISslCertificateManager;
class FSslModule : public IModuleInterface {
public:
    static FSslModule& Get();
    ISslCertificateManager& GetCertificateManager();
};
// === HAL/Runnable.h
#include "CoreMinimal.h"
class FRunnable {
public:
    virtual ~FRunnable();
    virtual bool Init();
    virtual uint32 Run() = 0;
    virtual void Stop();
    virtual void Exit();
};
// === HAL/ThreadSafeBool.h
#include "CoreMinimal.h"
struct FThreadSafeBool {
    FThreadSafeBool(bool value);
    operator bool() const;
    bool operator=(bool value);
};
// === HAL/RunnableThread.h
#include "HAL/Runnable.h"
class FRunnableThread {
public:
    virtual ~FRunnableThread();
    static FRunnableThread* Create(FRunnable* runnable, const TCHAR* name);
    virtual bool Kill(bool wait = true) = 0;
};
// === HAL/PlatformTime.h
struct FPlatformTime {
    static double Seconds();
};
// === Misc/Guid.h
#include "CoreMinimal.h"
struct FGuid {
    static FGuid NewGuid();
    uint32 A, B, C, D;
};
// === Misc/ScopeLock.h
#include "CoreMinimal.h"
struct FScopeLock {
    explicit FScopeLock(FCriticalSection* section);
    ~FScopeLock();
};
// === Modules/ModuleManager.h
#include "CoreMinimal.h"
struct IModuleInterface {};
struct FDefaultModuleImpl : IModuleInterface {};
#define IMPLEMENT_MODULE(type, name) inline type name##Module;
struct FModuleManager {
    template <typename T> static T& LoadModuleChecked(const TCHAR* name);
};
// === IImageWrapper.h
#include "CoreMinimal.h"
enum class EImageFormat : int8_t { PNG, JPEG };
enum class ERGBFormat : int8_t { RGBA, BGRA };
class IImageWrapper {
public:
    virtual ~IImageWrapper();
    virtual bool SetCompressed(const void* data, int64 size) = 0;
    virtual bool GetRaw(ERGBFormat format, int32 depth, TArray64<uint8>& out) = 0;
    virtual int64 GetWidth() const = 0;
    virtual int64 GetHeight() const = 0;
};
// === IImageWrapperModule.h
#include "IImageWrapper.h"
#include "Modules/ModuleManager.h"
class IImageWrapperModule : public IModuleInterface {
public:
    virtual TSharedPtr<IImageWrapper> CreateImageWrapper(EImageFormat format) = 0;
};
// === AddressInfoTypes.h
#include "CoreMinimal.h"
class FInternetAddr {
public:
    virtual void SetPort(int32 port) = 0;
    virtual FName GetProtocolType() const = 0;
};
enum class EAddressInfoFlags { Default };
enum ESocketType { SOCKTYPE_Unknown, SOCKTYPE_Datagram, SOCKTYPE_Streaming };
struct FAddressInfoResultData { TSharedPtr<FInternetAddr> Address; };
struct FAddressInfoResult { TArray<FAddressInfoResultData> Results; };
// === Sockets.h
#include "AddressInfoTypes.h"
enum ESocketConnectionState { SCS_NotConnected, SCS_Connected, SCS_ConnectionError };
namespace ESocketWaitConditions { enum Type { WaitForRead, WaitForWrite, WaitForReadOrWrite }; }
enum class ESocketShutdownMode { Read, Write, ReadWrite };
class FSocket {
public:
    virtual ~FSocket();
    virtual bool Connect(const FInternetAddr& peer) = 0;
    virtual bool Close() = 0;
    virtual bool Shutdown(ESocketShutdownMode mode) = 0;
    virtual bool Send(const uint8* data, int32 count, int32& sent) = 0;
    virtual bool Recv(uint8* data, int32 size, int32& read, int flags = 0) = 0;
    virtual bool Wait(ESocketWaitConditions::Type condition, FTimespan time) = 0;
    virtual ESocketConnectionState GetConnectionState() = 0;
    virtual bool SetNonBlocking(bool value = true) = 0;
    virtual bool SetNoDelay(bool value = true) = 0;
};
// === SocketSubsystem.h
#include "Sockets.h"
#define PLATFORM_SOCKETSUBSYSTEM NAME_None
enum ESocketErrors { SE_NO_ERROR, SE_EWOULDBLOCK, SE_EINPROGRESS };
class ISocketSubsystem {
public:
    static ISocketSubsystem* Get(const FName& name);
    virtual FSocket* CreateSocket(const FName& type, const FString& description, const FName& protocol) = 0;
    virtual void DestroySocket(FSocket* socket) = 0;
    virtual FAddressInfoResult GetAddressInfo(const TCHAR* host, const TCHAR* service, EAddressInfoFlags flags, const FName protocol, ESocketType type) = 0;
    virtual ESocketErrors GetLastErrorCode() = 0;
};
// === InputCoreTypes.h
#include "CoreMinimal.h"
struct FKey {};
struct EKeys {
    static const FKey W, A, S, D, Q, E, R, F, Up, Down, Left, Right, SpaceBar, LeftShift, LeftControl, One, Two, Three, Four, MouseX,
        MouseY, Gamepad_LeftX, Gamepad_LeftY, Gamepad_RightX, Gamepad_RightY, Gamepad_FaceButton_Bottom, Gamepad_FaceButton_Right,
        Gamepad_FaceButton_Left, Gamepad_FaceButton_Top, Gamepad_LeftShoulder, Gamepad_RightShoulder, Gamepad_LeftTrigger,
        Gamepad_RightTrigger, Gamepad_Special_Left, Gamepad_Special_Right, Gamepad_LeftThumbstick, Gamepad_RightThumbstick,
        Gamepad_DPad_Up, Gamepad_DPad_Down, Gamepad_DPad_Left, Gamepad_DPad_Right;
};
// === InputAction.h
#include "CoreMinimal.h"
enum class EInputActionValueType : uint8 { Boolean, Axis1D, Axis2D };
struct FInputActionValue {
    template <typename T> T Get() const;
};
class UInputAction : public UObject {
public:
    EInputActionValueType ValueType;
    bool bConsumeInput;
};
// === InputMappingContext.h
#include "InputAction.h"
#include "InputCoreTypes.h"
struct FEnhancedActionKeyMapping {};
class UInputMappingContext : public UObject {
public:
    FEnhancedActionKeyMapping& MapKey(const UInputAction* action, FKey key);
};
// === EnhancedInputComponent.h
#include "Components/ActorComponent.h"
#include "InputAction.h"
class UInputComponent : public UActorComponent {};
class UEnhancedInputComponent : public UInputComponent {
public:
    int& BindActionValue(const UInputAction* action);
    FInputActionValue GetBoundActionValue(const UInputAction* action) const;
};
// === EnhancedInputSubsystems.h
#include "CoreMinimal.h"
class UInputMappingContext;
class UEnhancedInputLocalPlayerSubsystem {
public:
    void AddMappingContext(const UInputMappingContext* context, int32 priority);
    void RemoveMappingContext(const UInputMappingContext* context);
};
// === Engine/LocalPlayer.h
#include "CoreMinimal.h"
class ULocalPlayer : public UObject {
public:
    template <typename T> static T* GetSubsystem(const ULocalPlayer* player);
};
// === Camera/PlayerCameraManager.h
#include "CoreMinimal.h"
class APlayerCameraManager : public UObject {
public:
    FVector GetCameraLocation() const;
    FRotator GetCameraRotation() const;
    float GetFOVAngle() const;
};
// === GameFramework/PlayerController.h
#include "CoreMinimal.h"
class APlayerCameraManager;
class UInputComponent;
class ULocalPlayer;
class APlayerController : public UObject {
public:
    ULocalPlayer* GetLocalPlayer() const;
    void PushInputComponent(UInputComponent* component);
    bool PopInputComponent(UInputComponent* component);
    void GetViewportSize(int32& width, int32& height) const;
    TObjectPtr<APlayerCameraManager> PlayerCameraManager;
};
// === Engine/World.h
#include "GameFramework/PlayerController.h"
class UWorld : public UObject {
public:
    APlayerController* GetFirstPlayerController() const;
};
// === RHI.h
#include "CoreMinimal.h"
struct FUpdateTextureRegion2D {
    FUpdateTextureRegion2D(uint32 to_x, uint32 to_y, int32 from_x, int32 from_y, uint32 width, uint32 height);
};
// === Engine/Texture2D.h
#include "CoreMinimal.h"
struct FUpdateTextureRegion2D;
enum EPixelFormat { PF_B8G8R8A8, PF_G16 };
enum TextureAddress { TA_Wrap, TA_Clamp };
enum TextureFilter { TF_Nearest, TF_Bilinear };
class UTexture : public UObject {
public:
    TextureFilter Filter;
};
class UTexture2D : public UTexture {
public:
    TextureAddress AddressX, AddressY;
    static UTexture2D* CreateTransient(int32 width, int32 height, EPixelFormat format);
    int32 GetSizeX() const;
    int32 GetSizeY() const;
    void UpdateResource();
    void UpdateTextureRegions(int32 mip, uint32 count, const FUpdateTextureRegion2D* regions, uint32 pitch, uint32 bytes, uint8* data,
                              std::function<void(uint8*, const FUpdateTextureRegion2D*)> done);
    uint8 SRGB : 1;
};
