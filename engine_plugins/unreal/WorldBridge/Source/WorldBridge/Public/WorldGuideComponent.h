// Sends what the player sees of the level, color and depth, to a world that continues it.
#pragma once

#include "CoreMinimal.h"
#include "Components/ActorComponent.h"
#include "WorldGuideComponent.generated.h"

class USceneCaptureComponent2D;
class UTextureRenderTarget2D;
class UWorldStreamComponent;

/** Add it beside a World Stream. The world joins the level's surfaces to its memory and draws what they leave open. */
UCLASS(ClassGroup = (WorldBridge), meta = (BlueprintSpawnableComponent))
class WORLDBRIDGE_API UWorldGuideComponent : public UActorComponent
{
    GENERATED_BODY()

public:
    UWorldGuideComponent();

    /** Let the world forget what it drew before, at the first view of each session. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Guide")
    bool bFresh = true;
    /** Seconds between two views, sent while the camera moves; 0: only Send View sends. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Guide")
    double Interval = 0.5;
    /** Centimetres that the camera moves before its next view is sent; it counts a turn as the way of what is 1 m ahead. */
    UPROPERTY(EditAnywhere, BlueprintReadWrite, Category = "World Guide")
    double Step = 10;
    /** Views that were sent. */
    UPROPERTY(Transient, VisibleInstanceOnly, BlueprintReadOnly, Category = "World Guide")
    int32 Sent = 0;

    /** Render the level from the first player's camera and send it. Does nothing for a world that takes no views. */
    UFUNCTION(BlueprintCallable, Category = "World Guide")
    void SendView();

    virtual void TickComponent(float DeltaTime, ELevelTick TickType, FActorComponentTickFunction* ThisTickFunction) override;

private:
    UWorldStreamComponent* Stream() const;
    USceneCaptureComponent2D* Capture(bool bDepth, int32 Width, int32 Height);

    UPROPERTY(Transient)
    TObjectPtr<USceneCaptureComponent2D> Color;
    UPROPERTY(Transient)
    TObjectPtr<USceneCaptureComponent2D> Depth;

    bool bBegun = false;
    double SinceView = 0;
    FVector LastLocation = FVector(0, 0, 0);
    FVector LastAhead = FVector(0, 0, 0);
};
