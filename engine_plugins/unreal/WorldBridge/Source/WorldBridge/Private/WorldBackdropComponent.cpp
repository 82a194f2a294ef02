#include "WorldBackdropComponent.h"

#include "Components/PostProcessComponent.h"
#include "Engine/Texture2D.h"
#include "GameFramework/Actor.h"
#include "Materials/MaterialInstanceDynamic.h"
#include "Materials/MaterialInterface.h"

#include "Core/FrameWarp.h"
#include "WorldStreamComponent.h"

namespace
{
worldbridge::UnrealPose PoseOf(const FVector& Location, const FQuat& Rotation, double FieldOfView)
{
    return {{Location.X, Location.Y, Location.Z}, {Rotation.X, Rotation.Y, Rotation.Z, Rotation.W}, FieldOfView};
}

FLinearColor Row(const worldbridge::FrameWarp& Warp, size_t Index)
{
    const auto& Way = Warp.to_frame[Index];
    return FLinearColor(float(Way[0]), float(Way[1]), float(Way[2]), float(Warp.origin[Index]));
}
}  // namespace

UWorldBackdropComponent::UWorldBackdropComponent()
{
    PrimaryComponentTick.bCanEverTick = true;
    PrimaryComponentTick.TickGroup = TG_PostUpdateWork;  // after the stream, and after the camera of this refresh
}

bool UWorldBackdropComponent::SetMaterialParameters(UMaterialInstanceDynamic* Material)
{
    const UWorldStreamComponent* Stream =
        GetOwner() != nullptr ? GetOwner()->FindComponentByClass<UWorldStreamComponent>() : nullptr;
    if (Material == nullptr || Stream == nullptr || Stream->Texture == nullptr)
    {
        return false;
    }
    worldbridge::FrameWarp Warp;
    FVector Location(0, 0, 0);
    FQuat Rotation(0, 0, 0, 1);
    worldbridge::Pose Pose;
    double Aspect = 1;
    if (bReproject && Stream->FollowsCamera() && Stream->GetPlayerCamera(Location, Rotation, Pose, &Aspect))
    {
        Warp = worldbridge::Aim(
            PoseOf(Stream->FrameCamera.GetLocation(), Stream->FrameCamera.GetRotation(), Stream->FrameFieldOfView),
            double(Stream->Texture->GetSizeX()) / Stream->Texture->GetSizeY(),
            PoseOf(Location, Rotation, worldbridge::HorizontalFieldOfView(Pose.fov_y, Aspect)), Aspect);
    }
    Material->SetTextureParameterValue(TEXT("Frame"), Stream->Texture);
    if (Stream->DepthTexture != nullptr)
    {
        Material->SetTextureParameterValue(TEXT("Depth"), Stream->DepthTexture);
    }
    Material->SetScalarParameterValue(TEXT("DepthScale"), Stream->DepthTexture != nullptr ? float(Stream->DepthScale) : 0.0f);
    Material->SetScalarParameterValue(TEXT("Recede"), float(Recede));
    Material->SetVectorParameterValue(TEXT("ToFrameX"), Row(Warp, 0));
    Material->SetVectorParameterValue(TEXT("ToFrameY"), Row(Warp, 1));
    Material->SetVectorParameterValue(TEXT("ToFrameZ"), Row(Warp, 2));
    const auto& Frame = Warp.frame_tangents;
    const auto& Display = Warp.display_tangents;
    Material->SetVectorParameterValue(
        TEXT("Tangents"), FLinearColor(float(Frame[0]), float(Frame[1]), float(Display[0]), float(Display[1])));
    return true;
}

void UWorldBackdropComponent::TickComponent(float DeltaTime, ELevelTick TickType, FActorComponentTickFunction* ThisTickFunction)
{
    Super::TickComponent(DeltaTime, TickType, ThisTickFunction);
    if (Instance == nullptr && BackdropMaterial != nullptr && GetOwner() != nullptr)
    {
        Instance = UMaterialInstanceDynamic::Create(BackdropMaterial, this);
        View = NewObject<UPostProcessComponent>(GetOwner());
        View->bUnbound = true;
        View->AddOrUpdateBlendable(Instance);
        View->RegisterComponent();
    }
    if (View != nullptr)
    {
        View->bEnabled = SetMaterialParameters(Instance);
    }
}

void UWorldBackdropComponent::EndPlay(const EEndPlayReason::Type Reason)
{
    if (View != nullptr)
    {
        View->DestroyComponent();
    }
    View = nullptr;
    Instance = nullptr;
    Super::EndPlay(Reason);
}
