// Fills the first player's view with a world, reprojected to the camera of each refresh of the display.
#pragma once

#include "CoreMinimal.h"
#include "Components/ActorComponent.h"
#include "WorldBackdropComponent.generated.h"

class UMaterialInstanceDynamic;
class UMaterialInterface;
class UPostProcessComponent;
class UWorldStreamComponent;

/** Add it beside a World Stream. With depth the level's objects stand in the world, without in front of it. */
UCLASS(ClassGroup = (WorldBridge), meta = (BlueprintSpawnableComponent))
class WORLDBRIDGE_API UWorldBackdropComponent : public UActorComponent
{
    GENERATED_BODY()

public:
    UWorldBackdropComponent();

    /** A post-process material with the code of Shaders/WorldBackdrop.ush. Empty: call Set Material Parameters yourself. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Backdrop")
    TObjectPtr<UMaterialInterface> BackdropMaterial;
    /** Reproject each frame to the present camera, for worlds that follow it. The others' frames are shown as they come. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Backdrop")
    bool bReproject = true;
    /** Share of its distance by which a surface of the world stands farther: 0.1 where a World Guide sends the level. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Backdrop", meta = (ClampMin = "0", ClampMax = "0.5"))
    double Recede = 0;

    /** Set the newest frame and its way to the present camera on a material. Returns whether there is a frame. */
    UFUNCTION(BlueprintCallable, Category = "World Backdrop")
    bool SetMaterialParameters(UMaterialInstanceDynamic* Material);

    virtual void TickComponent(float DeltaTime, ELevelTick TickType, FActorComponentTickFunction* ThisTickFunction) override;
    virtual void EndPlay(const EEndPlayReason::Type Reason) override;

private:
    UPROPERTY(Transient)
    TObjectPtr<UMaterialInstanceDynamic> Instance;
    UPROPERTY(Transient)
    TObjectPtr<UPostProcessComponent> View;
};
