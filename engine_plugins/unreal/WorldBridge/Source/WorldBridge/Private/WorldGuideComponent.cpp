#include "WorldGuideComponent.h"

#include "Components/SceneCaptureComponent2D.h"
#include "Engine/TextureRenderTarget2D.h"
#include "GameFramework/Actor.h"
#include "TextureResource.h"

#include "Core/Client.h"
#include "Core/Coordinates.h"
#include "WorldStreamComponent.h"

#include <cmath>

namespace
{
constexpr double DepthScale = 0.002;  // metres per step of the depth
constexpr double Reach = 13000;       // centimetres: what is farther counts as the sky
constexpr double Ahead = 100;         // centimetres
}  // namespace

UWorldGuideComponent::UWorldGuideComponent()
{
    PrimaryComponentTick.bCanEverTick = true;
}

UWorldStreamComponent* UWorldGuideComponent::Stream() const
{
    return GetOwner() != nullptr ? GetOwner()->FindComponentByClass<UWorldStreamComponent>() : nullptr;
}

USceneCaptureComponent2D* UWorldGuideComponent::Capture(bool bDepth, int32 Width, int32 Height)
{
    TObjectPtr<USceneCaptureComponent2D>& Made = bDepth ? Depth : Color;
    if (Made == nullptr)
    {
        Made = NewObject<USceneCaptureComponent2D>(GetOwner());
        Made->bCaptureEveryFrame = false;
        Made->bCaptureOnMovement = false;
        Made->CaptureSource = bDepth ? ESceneCaptureSource::SCS_SceneDepth : ESceneCaptureSource::SCS_FinalColorLDR;
        Made->ShowFlags.SetPostProcessMaterial(false);  // the material that shows the world is one
        Made->RegisterComponent();
    }
    if (Made->TextureTarget == nullptr || Made->TextureTarget->SizeX != Width || Made->TextureTarget->SizeY != Height)
    {
        Made->TextureTarget = NewObject<UTextureRenderTarget2D>(this);
        Made->TextureTarget->RenderTargetFormat = bDepth ? RTF_R32f : RTF_RGBA8;
        Made->TextureTarget->InitAutoFormat(Width, Height);
    }
    return Made;
}

void UWorldGuideComponent::SendView()
{
    UWorldStreamComponent* Live = Stream();
    worldbridge::Client* Client = Live != nullptr ? Live->GetClient() : nullptr;
    FVector Location(0, 0, 0);
    FQuat Rotation(0, 0, 0, 1);
    worldbridge::Observation View;
    if (Client == nullptr || !Live->TakesViews() || !Live->GetPlayerCamera(Location, Rotation, View.camera))
    {
        return;
    }
    // The view has the shape of the world's frames and at most the protocol's pixels.
    const worldbridge::Size Size = Client->ObservedSize();
    const double Aspect = double(Size.width) / double(Size.height);
    View.width = Size.width;
    View.height = Size.height;
    View.depth_scale = DepthScale;
    View.fresh = bFresh && !bBegun;
    TArray<FColor> Pixels;
    TArray<FLinearColor> Distances;
    for (const bool bDepth : {false, true})
    {
        USceneCaptureComponent2D* Eye = Capture(bDepth, int32(Size.width), int32(Size.height));
        Eye->SetWorldLocationAndRotation(Location, Rotation);
        Eye->FOVAngle = float(worldbridge::HorizontalFieldOfView(View.camera.fov_y, Aspect));
        Eye->CaptureScene();
        FTextureRenderTargetResource* Target = Eye->TextureTarget->GameThread_GetRenderTargetResource();
        if (Target == nullptr || !(bDepth ? Target->ReadLinearColorPixels(Distances) : Target->ReadPixels(Pixels)))
        {
            return;
        }
    }
    const int32 Count = int32(Size.width * Size.height);
    if (Pixels.Num() != Count || Distances.Num() != Count)
    {
        return;
    }
    worldbridge::Bytes Rgb(size_t(Count) * 3);
    worldbridge::Bytes Steps(size_t(Count) * 2);
    for (int32 Index = 0; Index < Count; ++Index)
    {
        const FColor& Pixel = Pixels[Index];
        Rgb[size_t(Index) * 3] = Pixel.R;
        Rgb[size_t(Index) * 3 + 1] = Pixel.G;
        Rgb[size_t(Index) * 3 + 2] = Pixel.B;
        const double Centimetres = double(Distances[Index].R);
        const bool bSeen = Centimetres > 0 && Centimetres < Reach;
        const uint32 Number = bSeen ? uint32(std::lround(Centimetres / 100 / DepthScale)) : 0;
        Steps[size_t(Index) * 2] = uint8(Number & 0xff);
        Steps[size_t(Index) * 2 + 1] = uint8(Number >> 8);
    }
    View.rgb = {Rgb.data(), Rgb.size()};
    View.depth = {Steps.data(), Steps.size()};
    Client->Observe(View);
    bBegun = true;
    ++Sent;
}

void UWorldGuideComponent::TickComponent(float DeltaTime, ELevelTick TickType, FActorComponentTickFunction* ThisTickFunction)
{
    Super::TickComponent(DeltaTime, TickType, ThisTickFunction);
    SinceView += double(DeltaTime);
    UWorldStreamComponent* Live = Stream();
    if (Live == nullptr || Live->State != EWorldStreamState::Playing)
    {
        bBegun = bBegun && Live != nullptr && Live->State == EWorldStreamState::Reconnecting;
        return;
    }
    FVector Location(0, 0, 0);
    FQuat Rotation(0, 0, 0, 1);
    worldbridge::Pose Pose;
    if (Interval <= 0 || SinceView < Interval || !Live->GetPlayerCamera(Location, Rotation, Pose))
    {
        return;
    }
    const FVector Front = Location + Rotation.GetForwardVector() * Ahead;
    if (bBegun && FVector::Dist(Location, LastLocation) < Step && FVector::Dist(Front, LastAhead) < Step)
    {
        return;
    }
    SinceView = 0;
    LastLocation = Location;
    LastAhead = Front;
    SendView();
}
