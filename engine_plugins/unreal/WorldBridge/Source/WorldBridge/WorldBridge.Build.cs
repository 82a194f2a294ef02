using UnrealBuildTool;

public class WorldBridge : ModuleRules
{
    public WorldBridge(ReadOnlyTargetRules Target) : base(Target)
    {
        PCHUsage = PCHUsageMode.UseExplicitOrSharedPCHs;
        // The core's files have helpers of the same names in unnamed namespaces.
        bUseUnity = false;
        PublicDependencyModuleNames.AddRange(new string[] { "Core", "CoreUObject", "Engine" });
        PrivateDependencyModuleNames.AddRange(new string[] {
            "EnhancedInput", "ImageWrapper", "InputCore", "RenderCore", "RHI", "Sockets", "SSL"
        });
        AddEngineThirdPartyPrivateStaticDependencies(Target, "OpenSSL");  // for wss://
    }
}
