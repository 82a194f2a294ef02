// Draws a world's frame behind and between the scene's own objects: each pixel has the depth of the
// world's surface. The frame is turned to the display's camera; it works in the built-in pipeline and in URP.
Shader "worldbridge/World Backdrop"
{
    Properties
    {
        [NoScaleOffset] _MainTex ("Frame", 2D) = "black" {}
        [NoScaleOffset] _DepthTex ("Depth", 2D) = "black" {}
    }

    SubShader
    {
        Tags { "Queue" = "Geometry-100" "RenderType" = "Opaque" "IgnoreProjector" = "True" }

        Pass
        {
            Cull Off
            ZWrite On
            ZTest LEqual

            CGPROGRAM
            #pragma vertex Vertex
            #pragma fragment Fragment
            #pragma target 3.5
            #include "UnityCG.cginc"

            sampler2D _MainTex;
            sampler2D _DepthTex;
            float _DepthScale; // metres at 1; 0: the frame has no depth
            float4 _FrameTangents; // of half the fields of view: horizontal, vertical
            float4x4 _ToFrame; // from the world to the frame's camera, which looks along +Z

            struct Varyings
            {
                float4 position : SV_POSITION;
                float3 ray : TEXCOORD0; // in the world, one metre along the display camera's axis
            };

            struct Output
            {
                fixed4 color : SV_Target;
                float depth : SV_Depth;
            };

            Varyings Vertex(appdata_base input)
            {
                float2 place = input.vertex.xy * 2.0; // of a quad from -0.5 to 0.5
                Varyings output;
                output.position = float4(place, UNITY_NEAR_CLIP_VALUE, 1.0);
                float2 up = float2(place.x, place.y * _ProjectionParams.x);
                float4 view = mul(unity_CameraInvProjection, float4(up, 0.5, 1.0));
                view.xyz /= view.w;
                float3 ray = float3(view.xy / abs(view.z), -1.0);
                output.ray = mul((float3x3)UNITY_MATRIX_I_V, ray);
                return output;
            }

            Output Fragment(Varyings input)
            {
                float3 turned = mul((float3x3)_ToFrame, input.ray);
                float2 uv = turned.xy / max(turned.z, 1e-4) / _FrameTangents.xy * 0.5 + 0.5;
                uv = saturate(uv);
                float metres = tex2D(_DepthTex, float2(uv.x, 1.0 - uv.y)).r * _DepthScale;
                float far = 0.99 * _ProjectionParams.z;
                // along the display camera's axis
                metres = metres > 0.0 ? min(metres / max(turned.z, 1e-4), far) : far;
                float3 place = _WorldSpaceCameraPos + input.ray * metres;
                float4 clip = mul(UNITY_MATRIX_VP, float4(place, 1.0));
                Output output;
                output.color = tex2D(_MainTex, uv);
                output.depth = clip.z / clip.w;
                #if !defined(UNITY_REVERSED_Z)
                output.depth = output.depth * 0.5 + 0.5;
                #endif
                return output;
            }
            ENDCG
        }
    }
}
